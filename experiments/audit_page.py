"""One page about one prepared set, from what lies beside its records: audit.html, whole in itself, offline.

It shows the user's own pictures, so it stays where they are. File names, ids and reasons come from strangers' archives
and are escaped; the page's own content policy forbids it to load anything.
"""

import json
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from data_pipelines.audit import PROTOCOL, SEVERITIES, SPLITS, by_reason
from data_pipelines.schema import NO_LANDMARKS, is_drawn
from experiments import plots

PAIRS, FACES, FILES, PROTOCOLS = 8, 16, 50, 100  # shown of each kind
OWN, NOTHING = "the set’s own", '<span class="muted">nothing to show</span>'
SCORES = ("age", "attractiveness")
SHOWN_DUPLICATES = {
    "identical_across": "Byte-identical, in two splits",
    "similar_across": "Near-duplicates, in two splits",
    "identical_age": "Byte-identical, ages disagree",
    "similar_age": "Near-duplicates, ages disagree",
    "identical_identity": "Byte-identical, labelled as two people",
    "similar_identity": "Near-duplicates, labelled as two people",
    "identical_protocols": "Byte-identical, in two splits of protocol",
    "similar_protocols": "Near-duplicates, in two splits of protocol",
    "identical": "Other byte-identical files",
    "similar": "Other near-duplicates",
}
SHOWN_SUBJECTS = {
    "subjects_across": "Subjects in two splits",
    "subjects_protocols": "Subjects in two splits of protocol",
}
SHOWN_FACES = {
    "no_face": "No face found",
    "several_faces": "Several faces found",
    "one_colour": "Of one colour",
    "unlabelled": "Without a label",
}


def write_page(place: Path, summary: dict, columns: dict[str, np.ndarray], split=None) -> Path:
    """Writes place/audit.html and returns its path.

    summary: the set's summary.json; columns: all of its index.npz; split: `[row]` is the record of a row in the stored
    order, all splits one after the other. Without it the page has no pictures.
    """
    name, audit = str(summary.get("name", "")), summary.get("audit") or {}
    findings = _sorted([*audit.get("findings", ()), *_warnings(summary)])
    pictures, drawn = _Pictures(columns, split), is_drawn(name)
    page = PAGE.substitute(
        name=escape(name), kind="drawn faces" if drawn else "photographs", shade="drawn" if drawn else "photographs",
        style=plots.STYLE_SHEET + STYLE_SHEET, headline=headline(summary), about=_about(summary),
        findings=_findings(findings), splits=_splits(summary, audit), figures=_figures(columns),
        composition=_composition(audit.get("composition") or {}), protocols=_protocols(summary, audit),
        subjects=_pairs(SHOWN_SUBJECTS, findings, pictures),
        duplicates=_pairs(SHOWN_DUPLICATES, findings, pictures) or NOTHING, faces=_faces(findings, pictures),
        skipped=_skipped(summary.get("skipped") or []), made=_made(summary),
    )  # fmt: skip
    path = Path(place) / "audit.html"
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def headline(summary: dict) -> str:
    """`4,686 images of 4,691 published: 1 leak, 2 warnings`."""
    total = sum((summary.get("splits") or {}).values())
    expected = (summary.get("expected") or {}).get("all")
    published = f" of {expected:,} published" if expected else ""
    found = [finding["severity"] for finding in [*_audited(summary), *_warnings(summary)]]
    counts = {severity: found.count(severity) for severity in ("leak", "warning")}
    parts = [f"{count:,} {severity}{'s' * (count > 1)}" for severity, count in counts.items() if count]
    return f"{total:,} image{'s' * (total != 1)}{published}: {', '.join(parts) or 'no leak, no warning'}"


def _audited(summary: dict) -> list[dict]:
    return (summary.get("audit") or {}).get("findings") or []


def _warnings(summary: dict) -> list[dict]:
    """What the builder itself warned of, as findings."""
    return [{"kind": "builder", "severity": "warning", "text": str(text)} for text in summary.get("warnings") or ()]


def _sorted(findings: list[dict]) -> list[dict]:
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding["severity"]))


def _about(summary: dict) -> str:
    trains, detector = summary.get("trains"), summary.get("detector")
    parts = (trains and f"trained label: {trains}", detector and f"faces by: {detector}")
    return " · ".join(escape(part) for part in parts if part)


def _findings(findings: list[dict]) -> str:
    lines = (f'<li class="{row["severity"]}"><b>{row["severity"]}</b>{escape(row["text"])}</li>' for row in findings)
    return f'<ul class="findings">{"".join(lines)}</ul>' if findings else NOTHING


def _splits(summary: dict, audit: dict) -> str:
    """Found, published, subjects and ages of each split."""
    published = {row["part"]: row["expected"] for row in audit.get("counts") or ()}
    splits, ages = summary.get("splits") or {}, summary.get("ages") or {}
    people = (summary.get("identities") or {}) | {"all": summary.get("num_identities")}
    rows = [("", "images", "published", "subjects", "youngest", "median age", "oldest")]
    for split, count in (splits | {"all": sum(splits.values())}).items():
        years = [_cell((ages.get(split) or {}).get(key)) for key in ("min", "median", "max")]
        rows.append((split, _cell(count), _cell(published.get(split)), _cell(people.get(split) or None), *years))
    return f'<div class="scroll">{plots.table(rows)}</div>'


def _figures(columns: dict) -> str:
    """Images per age (per score) and split."""
    figures = ""
    for score in SCORES:
        values = columns.get(score, np.empty(0))
        parts = {split: values[columns["split"][: len(values)] == number] for number, split in enumerate(SPLITS)}
        known = {split: part[np.isfinite(part)] for split, part in parts.items()}
        known = {split: part for split, part in known.items() if len(part)}
        if known:
            svg = plots.inline_svg(plots.counts_by_split(known, score), score, f"examples of each {score}")
            figures += f'<figure class="scroll">{svg}</figure>'
    return figures


def _composition(composition: dict) -> str:
    """Gender and ethnicity, in each split."""
    tables = []
    for name, splits in composition.items():
        words = list(next(iter(splits.values()), {}))
        heads = (f"<b>{escape(name)}</b>", *(escape(word) or "other, not known" for word in words))
        rows = [
            (split, *(_share(counts[word], sum(counts.values())) for word in words)) for split, counts in splits.items()
        ]
        tables += [f'<div class="scroll">{plots.table([heads, *rows])}</div>'] if rows else []
    return "".join(tables)


def _protocols(summary: dict, audit: dict) -> str:
    """Images of each split under each protocol, and what lies in more than one of its splits."""
    across, protocols = audit.get("across") or {}, summary.get("protocols") or {}
    counts = {"": summary.get("splits") or {}} | protocols
    rows = [("", *SPLITS, "shared subjects", "identical pairs across", "near-duplicates across")]
    for name, splits in list(counts.items())[: PROTOCOLS + 1]:
        shared = (across.get(name, {}).get(kind) for kind in ("subjects", "identical", "similar"))
        rows.append((escape(name) or OWN, *(_cell(splits.get(split)) for split in SPLITS), *map(_alarm, shared)))
    more = len(counts) - PROTOCOLS - 1
    rest = f'<p class="muted">{more:,} more in summary.json</p>' if more > 0 else ""
    return f'<div class="scroll">{plots.table(rows)}</div>{rest}'


def _pairs(titles: dict[str, str], findings: list[dict], pictures: "_Pictures") -> str:
    """Pairs side by side, each once, under the first of the titles' kinds that has it."""
    known, seen, parts = {row["kind"]: row for row in findings}, set(), []
    for kind, title in titles.items():
        protocol = known.get(kind, {}).get("protocol", "")
        new = [rows for rows in known.get(kind, {}).get("examples", ()) if tuple(rows) not in seen][:PAIRS]
        seen |= {tuple(rows) for rows in new}
        pairs = ["".join(pictures.card(row, protocol) for row in rows) for rows in new]
        cards = "".join(f'<div class="pair">{pair}</div>' for pair in pairs)
        parts += [f'<h3>{title} {escape(protocol)}</h3><div class="pairs">{cards}</div>'] if new else []
    return "".join(parts)


def _faces(findings: list[dict], pictures: "_Pictures") -> str:
    examples, parts = {row["kind"]: row.get("examples") or [] for row in findings}, []
    for kind, title in SHOWN_FACES.items():
        cards = "".join(pictures.card(rows[0]) for rows in examples.get(kind, [])[:FACES])
        parts += [f'<h3>{title}</h3><div class="faces">{cards}</div>'] if cards else []
    return "".join(parts) or NOTHING


class _Pictures:
    """Cards of rows: the whole picture, its age, split, id and subject; each picture is read once."""

    def __init__(self, columns: dict, split):
        self.columns, self.split, self.seen = columns, split, {}

    def card(self, row: int, protocol: str = "") -> str:
        """`protocol`: whose split is told; by default the set's own."""
        age, who = self._value("age", row), self._value("identity", row)
        part = int(self._value(PROTOCOL + protocol if protocol else "split", row))
        years = f"<b>{age:.3g}</b> " if np.isfinite(age) else ""
        person = f'<span class="muted">subject {who:.0f}</span>' if who >= 0 else ""
        name, picture = self._picture(row)
        where = f'{years}{SPLITS[part]}<span class="muted" title="{name}">{name}</span>'
        return f'<div class="face">{picture}{where}{person}</div>'

    def _picture(self, row: int) -> tuple[str, str]:
        """Name and picture of a row, as markup."""
        if self.split is None:
            return f"row {row}", ""
        if row not in self.seen:
            record = self.split[row]
            face = plots.thumbnail(record | {"landmarks": NO_LANDMARKS})
            self.seen[row] = escape(str(record["id"])), f'<img src="{face}" alt="">' if face else ""
        return self.seen[row]

    def _value(self, column: str, row: int) -> float:
        return float(self.columns[column][row]) if column in self.columns else np.nan


def _skipped(skipped: list[dict]) -> str:
    """Each kind of reason with its count, and its first files with the reason in full."""
    full, parts = {(str(row["file"])): str(row["reason"]) for row in skipped}, []
    for reason, files in by_reason(skipped).items():
        lines = "\n".join(f"{file}: {full[str(file)]}" for file in map(str, files[:FILES]))
        more = f"\n… {len(files) - FILES:,} more in summary.json" if len(files) > FILES else ""
        head = f"{escape(reason)}: {len(files):,}"
        parts.append(f"<details><summary>{head}</summary><pre>{escape(lines + more)}</pre></details>")
    return "".join(parts) or NOTHING


def _made(summary: dict) -> str:
    keys = ("source", "recipe", "versions")
    text = json.dumps({key: summary[key] for key in keys if key in summary}, indent=1, ensure_ascii=False)
    return f"<details><summary>Source, recipe, versions</summary><pre>{escape(text)}</pre></details>"


def _cell(value) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _share(count: int, total: int) -> str:
    return f'{count:,} <span class="muted">{100 * count / max(total, 1):.0f}&nbsp;%</span>'


def _alarm(count: int | None) -> str:
    return f'<b class="warning">{count:,}</b>' if count else _cell(count)


STYLE_SHEET = """
.findings{list-style:none;padding:0}.findings li{padding:.32rem 0 .32rem 5.6rem;border-bottom:1px solid var(--grid)}
.findings b{display:inline-block;width:5.6rem;margin-left:-5.6rem}
.leak b,.leak{color:var(--orange)}.findings .warning{color:inherit}.warning b{color:var(--orange)}
.note b{color:var(--muted);font-weight:400}
.pairs{display:grid;gap:1rem;font-size:.88rem;line-height:1.35;
grid-template-columns:repeat(auto-fill,minmax(14.5rem,1fr))}
.pair{display:grid;grid-template-columns:1fr 1fr;gap:.6rem;padding:.6rem;break-inside:avoid;
border:1px solid var(--grid);border-radius:6px}img{object-fit:contain;background:var(--grid)}
.scroll{margin-top:1.6rem}.scroll svg{min-width:34rem}.scroll td{white-space:nowrap}h2+.scroll{margin-top:0}
pre{white-space:pre-wrap;overflow-wrap:anywhere}
"""
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$name: audit</title><style>$style</style></head><body>
<h1>$name<span class="badge $shade">$kind</span></h1><p class="headline">$headline</p>
<p class="muted">$about</p>
<h2>Findings</h2>$findings
<h2>Images</h2>$splits$figures$composition
<h2>Splits</h2>$protocols$subjects
<h2>Duplicates</h2><p class="muted">Below each picture: age in years, split, name.</p>$duplicates
<h2>Faces</h2>$faces
<h2>Left out</h2>$skipped
<h2>How it was made</h2>$made
</body></html>
""")
