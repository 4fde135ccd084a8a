"""The report of one or several studies: verdicts, figures, pictures and settings in one HTML page."""

from robustlab.study.report.curves import Judgement, judge_studies
from robustlab.study.report.page import FILE_NAME, VerdictRow, render_report, verdict_rows, write_report
from robustlab.study.report.record import StudyRecord, read_study

__all__ = [
    "FILE_NAME",
    "Judgement",
    "StudyRecord",
    "VerdictRow",
    "judge_studies",
    "read_study",
    "render_report",
    "verdict_rows",
    "write_report",
]
