"""Measurements that are not tests: attack libraries side by side. See README.md beside this file."""
