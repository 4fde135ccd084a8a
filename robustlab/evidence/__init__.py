"""How sure a curve's turning point is: intervals, a test that holds its level, verdicts, the paper's findings."""

from robustlab.evidence.curve import Curve, curve_of_cells
from robustlab.evidence.findings import AccuracyPoint, Finding, Judged, check_findings
from robustlab.evidence.judge import Need, Verdict, holm, judge
from robustlab.evidence.measure import FLAT_MARGIN, LEVEL, Evidence, Interval, measure
from robustlab.evidence.resampling import DRAWS, resample
from robustlab.evidence.wording import ONE_SEED, explain, headline, peak_range

__all__ = [
    "DRAWS",
    "FLAT_MARGIN",
    "LEVEL",
    "ONE_SEED",
    "AccuracyPoint",
    "Curve",
    "Evidence",
    "Finding",
    "Interval",
    "Judged",
    "Need",
    "Verdict",
    "check_findings",
    "curve_of_cells",
    "explain",
    "headline",
    "holm",
    "judge",
    "measure",
    "peak_range",
    "resample",
]
