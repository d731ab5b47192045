"""reference/groups.md: each group of conf/, its options, and the file behind each."""

from __future__ import annotations

from typing import Any

from docs.generate.option_files import CONF, content_of, head_and_rest, option_paths

INTRODUCTION = """\
# Groups

The configuration has groups. Each option of a group is a YAML file in `conf/` that sets some
[options](options.md). You choose one by `group=option`, such as `paradigm=feature`, and set single
values beside it, such as `paradigm.feature.weight=0.5`.

Later choices win over earlier ones, in this order:

1. `conf/config.yaml` names one option of each group.
2. The pair (`model`) may bring fitting options of `data`, `eval`, `training` and `paradigm`.
3. `conf/local/default.yaml`, if you have written it, holds your site's values.
4. An experiment (`experiment`) sets a whole study.
5. The command line.

`python -m kdwatts --cfg job` prints what a command comes to. Your own option is a file in a folder
of your own: `python -m kdwatts --config-dir DIR` reads it beside ours. See
[Add a paradigm, pair or GPU](../how_to/add_options.md).
"""

WORDS = {
    "paradigm": "What the student is taught by: the terms of the loss, whose text it learns, and "
    "whether the teacher is asked once (cached) or at each step (online).",
    "model": "The pair of teacher and student. A pair also chooses options of other groups that "
    "fit it.",
    "data": "The corpus. Its text is tokenized once and kept in the store.",
    "gpu": "The GPU that the job must find. `auto` takes the one that is there.",
    "training": "How much text, in which steps, with which precision and optimizer.",
    "eval": "The benchmarks that student and teacher are scored on, and the serving benchmark.",
    "telemetry": "How often power is sampled, and whether the CPU's energy is estimated.",
    "site": "Where the electricity comes from: emissions, overhead of the building, water and "
    "price, each with its source.",
    "experiment": "A whole study in one file. The comment on top has the command. An experiment "
    "with a sweep needs `-m`.",
    "local": "Your site's own values. `conf/local/default.yaml` is read by every command, if it "
    "exists, and git ignores it. `local=NAME` reads `conf/local/NAME.yaml` in its place.",
    "hydra/launcher": "How the runs of a sweep are started. Without a choice they run one after "
    "the other on this machine.",
}
"""What each group chooses, in the order of the page."""


def groups() -> dict[str, list[str]]:
    """Each group of conf/ to its options."""
    folders = sorted({path.parent for path in option_paths()})
    names = {folder.relative_to(CONF).as_posix(): folder for folder in folders}
    return {
        name: sorted(
            path.stem
            for path in names[name].glob("*.yaml")
            # The others are a site's own.
            if name != "local" or path.stem == "example"
        )
        for name in sorted(names, key=list(WORDS).index)
    }


def page() -> str:
    """The page in Markdown."""
    chosen = {
        group.removeprefix("optional "): option
        for entry in content_of("config.yaml")["defaults"]
        if isinstance(entry, dict)
        for group, option in entry.items()
    }
    parts = [INTRODUCTION]
    for group, options in groups().items():
        parts.append(f"## {group}\n\n{WORDS[group]}\n\n{_choosers(group, chosen.get(group))}\n")
        parts += ["| option | what choosing it means |", "| --- | --- |"]
        for option in options:
            head, _ = head_and_rest(f"{group}/{option}.yaml")
            is_command = head[0].startswith("python")
            words = " ".join(head[is_command:])
            parts.append(f"| [`{option}`](#{_anchor(group, option)}) | {words} |")
        parts.append("")
        parts += [_option(group, option) for option in options]
    return "\n".join(parts)


def _option(group: str, option: str) -> str:
    """The section of one option, with its file behind a mark that opens."""
    head, rest = head_and_rest(f"{group}/{option}.yaml")
    command, words = ("", head)
    if head[0].startswith("python"):
        command, words = f"```bash\n{head[0]}\n```\n\n", head[1:]
    return (
        f"### {group}={option} {{#{_anchor(group, option)}}}\n\n{' '.join(words)}\n\n{command}"
        f'<details markdown="1"><summary>What it sets</summary>\n\n'
        f"```yaml\n{rest.strip()}\n```\n\n</details>\n"
    )


def _anchor(group: str, option: str) -> str:
    return f"{group.replace('/', '-')}-{option}"


def _choosers(group: str, default: str | None) -> str:
    """Who chooses an option of the group where the command line names none."""
    said = []
    if default in groups()[group]:
        said.append(f"Default: `{group}={default}`.")
    choosers: dict[str, list[str]] = {}
    for other in ("model", "experiment"):
        for path in sorted((CONF / other).glob("*.yaml")):
            if chosen := _override(content_of(f"{other}/{path.name}"), group):
                choosers.setdefault(chosen, []).append(f"`{other}={path.stem}`")
    said += [f"`{option}` is chosen by {', '.join(by)}." for option, by in choosers.items()]
    return "\n\n".join(said)


def _override(content: dict[str, Any], group: str) -> str | None:
    """The option of a group that a file's defaults choose; None where they choose none."""
    for entry in content.get("defaults", []):
        for key, option in entry.items() if isinstance(entry, dict) else ():
            if key.removeprefix("override ").partition("@")[0] == f"/{group}":
                return option
    return None
