"""The frame of a report that is one HTML file: head, style and title; no script, no network."""

from html import escape


def page(title: str, content: str, *, style: str) -> str:
    """Return a page of HTML under a title; `style` comes after what all reports share."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>{_STYLE}{style}</style></head><body><main>
<h1>{escape(title)}</h1>
{content}
</main></body></html>
"""


_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2330;background:#f5f7fa;margin:0}
main{max-width:1040px;margin:0 auto;padding:32px 20px}
h1{font-size:28px;margin:0 0 4px}h2{font-size:19px;margin:36px 0 10px}
h3{font-size:15px;font-weight:600;margin:18px 0 6px}
.headline{font-size:18px;color:#0b7a55}.range{color:#5a6474;margin:0 0 6px;font-size:14px}
.notice{background:#fff4d6;border-left:4px solid #b4570c;padding:8px 12px;font-weight:600}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;background:#fff;border:1px solid #dde3ec;font-size:14px}
th,td{padding:6px 9px;text-align:right;border-bottom:1px solid #edf0f5;white-space:nowrap;
font-variant-numeric:tabular-nums}
th:first-child{text-align:left;font-weight:500}thead th,tfoot{background:#eef2f8;font-weight:600}
svg{width:100%;background:#fff;border:1px solid #dde3ec}svg text{font-size:12px;fill:#5a6474}
"""
