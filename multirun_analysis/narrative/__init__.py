"""Sentences made of numbers: the answer, the findings, the caveats, the choice of a student.

The fixed words of a section stand in `report/templates`, the note of a figure beside its exhibit
in `figures`.
"""
