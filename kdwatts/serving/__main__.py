"""`python -m kdwatts.serving`: what a model costs behind a server, load by load."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from kdwatts.runtime.interrupt import ended_in_a_sentence
from kdwatts.runtime.streams import print_anywhere, until_unread
from kdwatts.runtime.whole_install import EXIT_REFUSED, needs_the_whole_install
from kdwatts.serving.serving_options import parser, settings_of
from kdwatts.telemetry.meter_options import meter_settings


def main(words: Sequence[str]) -> int:
    """The exit code of a command line."""
    print_anywhere()
    options = parser().parse_args(words)
    with needs_the_whole_install("python -m kdwatts.serving"):
        from kdwatts.serving.serving_command import Asked, measure
    try:
        settings, meter = settings_of(options), meter_settings(options)
        if options.model is None and not options.url:
            raise ValueError("no model was given; give --model DIR, or --url of a running server")
    except ValueError as error:
        print(f"kdwatts: {error}", file=sys.stderr)
        return EXIT_REFUSED
    asked = Asked(
        model=options.model,
        tokenizer=options.tokenizer,
        device=options.device,
        dtype=options.dtype,
        seed=options.seed,
        repeats=options.repeats,
        out_dir=options.out,
    )
    return measure(settings, meter, asked)


if __name__ == "__main__":
    with until_unread(), ended_in_a_sentence("python -m kdwatts.serving"):
        sys.exit(main(sys.argv[1:]))
