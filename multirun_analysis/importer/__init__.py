"""Foreign records of distillation runs, read into run folders that look like ours.

One format is known, that of the project Slimming-Models-Saving-Watts: per run a folder with
`telemetry.jsonl`, and where they were made `eval.json` of lm-evaluation-harness and `ept.json`
about inference, each plain or as .gz; beside the runs a folder with the same two of the teacher.
What such records do not say is null in ours.
"""
