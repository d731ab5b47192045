"""The page as PDF: the browser that draws figures as files prints it, by the page's own rules."""

from __future__ import annotations

import asyncio
import base64
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from multirun_analysis.report.export import NO_BROWSER
from multirun_analysis.values.atomic import replace_whole


def write_pdf(page_path: Path, pdf_path: Path) -> Path:
    """`pdf_path`, which holds the page: text that is searched, figures of lines, and an outline.

    Paper, margins and page numbers are those of the page's style, so the browser's own print is
    the same. `export.why_not` tells beforehand whether there is a browser. Raises OSError where it
    does not print, or the file cannot be written.
    """
    address = page_path.resolve().as_uri()
    # A thread of its own has no event loop yet, as that of a notebook would.
    with ThreadPoolExecutor(1) as thread:
        try:
            pdf = thread.submit(lambda: asyncio.run(_printed(address))).result()
        except (RuntimeError, asyncio.CancelledError) as error:  # The browser's own end.
            raise OSError(NO_BROWSER) from error
    pdf_path.parent.mkdir(parents=True, exist_ok=True)
    replace_whole(pdf_path, partial(Path.write_bytes, data=pdf))
    return pdf_path


async def _printed(address: str) -> bytes:
    from choreographer import Browser

    logging.getLogger("choreographer").setLevel(logging.ERROR)  # Its end is told by us.
    async with Browser(headless=True) as browser:
        tab = await browser.create_tab()
        await _sent(tab, "Page.enable")
        loaded = tab.subscribe_once("Page.loadEventFired")
        await _sent(tab, "Page.navigate", {"url": address})
        await loaded
        # The page draws its figures for paper when the browser says that it prints.
        printed = await _sent(
            tab,
            "Page.printToPDF",
            {
                "preferCSSPageSize": True,
                "printBackground": True,
                "generateTaggedPDF": True,
                "generateDocumentOutline": True,
            },
        )
    return base64.b64decode(printed["data"])


async def _sent(tab: Any, command: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await tab.send_command(command, params=params)
    if "error" in answer:
        raise OSError(f"the browser did not answer {command}: {answer['error'].get('message')}")
    return answer["result"]
