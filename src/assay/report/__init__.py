"""The wall of verdicts, and small reports of probes: static pages that open from a disk."""

from __future__ import annotations

from assay.report.probe import Section, Table, write_probe_report
from assay.report.wall import write_wall

__all__ = ["Section", "Table", "write_probe_report", "write_wall"]
