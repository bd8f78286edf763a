"""One look for every figure of the book: palette, type, lines, arrows, and checks that text stays where it belongs.

A figure is SVG text with a transparent background. An embedded style sheet holds two palettes, light and dark, and the
reader's browser chooses. Text is text in the reader's system font, so widths differ from machine to machine: `Figure`
measures with wide glyphs and refuses text that would leave its box, leave the picture, or lie on other text.
"""

from xml.sax.saxutils import escape

WIDTH = 840  # of every figure, so that letters have one size throughout the book

SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"

# role: (line and text, fill), on a light background and on a dark one. No meaning hangs on red against green alone.
LIGHT = {
    "ink": ("#1c2430", "#ffffff"),
    "muted": ("#59636f", "#f1f3f6"),
    "blue": ("#1a5fb0", "#e2effc"),
    "orange": ("#a84a05", "#fdeedd"),
    "green": ("#25713a", "#e2f5e6"),
    "purple": ("#6d3fb4", "#f0e9fb"),
    "red": ("#bd2430", "#fde7e8"),
    "teal": ("#0f6f71", "#def3f3"),
}
DARK = {
    "ink": ("#e5eaf0", "#1d242d"),
    "muted": ("#9aa5b1", "#242c36"),
    "blue": ("#7ab8ff", "#17304d"),
    "orange": ("#f5a55c", "#40290f"),
    "green": ("#6fce87", "#173521"),
    "purple": ("#c3a2ff", "#33244f"),
    "red": ("#ff8f8f", "#4a2023"),
    "teal": ("#4cc3c5", "#0f3536"),
}

SIZES = {"head": 15, "body": 13.5, "small": 12, "code": 12.5, "listing": 11.5}
MONOSPACED = {"code", "listing"}

# Glyph widths in em, as wide as in DejaVu Sans or Verdana, the widest of the fonts above.
NARROW, WIDE = set("iljI.,:;'|!ftr()[]/ "), set("mwMW@%→←↔+−=<>×·—…")


def glyphs(text, mono=False, bold=False):
    """The width of a text in em, estimated high."""
    if mono:
        return 0.62 * len(text)
    width = sum(0.38 if c in NARROW else 0.86 if c in WIDE else 0.70 if c.isupper() else 0.63 for c in text)
    return width * (1.16 if bold else 1.0)


def number(x):
    """A coordinate with at most one decimal."""
    return f"{round(x, 1):g}" if abs(x) < 1e6 else str(round(x))


def style(used):
    """The style sheet, with the roles that a figure uses."""

    def rules(palette):
        lines = []
        for role in sorted(used):
            line, fill = palette[role]
            lines.append(f".{role}{{fill:{line}}}.l-{role}{{stroke:{line}}}.b-{role}{{stroke:{line};fill:{fill}}}")
        return "".join(lines)

    sizes = "".join(f".{name}{{font-size:{size}px}}" for name, size in SIZES.items())
    return (
        f"text{{font-family:{SANS}}}.code,.listing,.mono{{font-family:{MONO}}}{sizes}"
        ".head,.bold{font-weight:600}.line{fill:none;stroke-width:1.5}.thick{stroke-width:3}.box{stroke-width:1.5}"
        ".dash{stroke-dasharray:5 4}.bare{fill:none!important}.none{stroke:none!important}"
        f"{rules(LIGHT)}@media (prefers-color-scheme:dark){{{rules(DARK)}}}"
    )


class Figure:
    """A picture under way. Coordinates are pixels at full size; y grows downwards."""

    def __init__(self, title, description, height):
        self.title, self.description, self.height = title, description, height
        self.parts, self.used, self.texts = [], {"ink"}, []

    def box(self, x, y, w, h, role="ink", dashed=False, bare=False, radius=5):
        """A rectangle in a role's colours."""
        self.used.add(role)
        extra = (" dash" if dashed else "") + (" bare" if bare else "")
        size = f'x="{number(x)}" y="{number(y)}" width="{number(w)}" height="{number(h)}"'
        self.parts.append(f'<rect class="box b-{role}{extra}" {size} rx="{radius}"/>')

    def text(self, x, y, text, kind="body", role="ink", anchor="start", bold=False, room=None):
        """A line of text; parts in `backticks` are code. y is the baseline; `room` is the width it must fit."""
        self.used.add(role)
        size, mono = SIZES[kind], kind in MONOSPACED
        if mono:  # SVG drops spaces at the start of a text
            x, text = x + 0.6 * size * (len(text) - len(text.lstrip())), text.lstrip()
        runs = text.split("`")
        width = size * sum(glyphs(run, mono or i % 2, bold or kind == "head") for i, run in enumerate(runs))
        left = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
        if room is not None and width > room:
            raise ValueError(f"{self.title}: '{text}' needs {width:.0f} and has {room:.0f}")
        self._claim(text, left, y - 0.75 * size, left + width, y + 0.2 * size)
        inner = "".join(
            f'<tspan class="mono">{escape(r)}</tspan>' if i % 2 else escape(r) for i, r in enumerate(runs) if r
        )
        names = " ".join([kind, role] + (["bold"] if bold else []))
        where = f'x="{number(x)}" y="{number(y)}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
        self.parts.append(f'<text class="{names}" {where}>{inner}</text>')

    def lines(self, x, y, texts, step=17, **how):
        """Lines of text under one another."""
        for i, text in enumerate(texts):
            self.text(x, y + i * step, text, **how)

    def labelled(self, x, y, w, h, texts, role="ink", kinds=("body",), dashed=False, step=16):
        """A box with lines of text in its middle; `kinds` are theirs, the last one for all the rest."""
        self.box(x, y, w, h, role, dashed)
        if 16 * len(texts) > h + 6:
            raise ValueError(f"{self.title}: {texts} is too high for {h}")
        first = y + h / 2 - step * (len(texts) - 1) / 2 + 4.5
        for i, text in enumerate(texts):
            kind = kinds[min(i, len(kinds) - 1)]
            self.text(x + w / 2, first + i * step, text, kind, "ink", "middle", room=w - 6)

    def path(self, d, role="muted", arrow=False, dashed=False, thick=False):
        """A line given as SVG path data."""
        self.used.add(role)
        names = f"line l-{role}" + (" dash" if dashed else "") + (" thick" if thick else "")
        end = f' marker-end="url(#to-{role})"' if arrow else ""
        self.parts.append(f'<path class="{names}" d="{d}"{end}/>')

    def line(self, *points, **how):
        """A line through points."""
        self.path("M" + "L".join(f"{number(x)} {number(y)}" for x, y in points), **how)

    def arrow(self, *points, **how):
        """A line through points that ends in an arrow head."""
        self.line(*points, arrow=True, **how)

    def raw(self, svg, *roles):
        """Any other element, with the roles whose classes it uses."""
        self.used.update(roles)
        self.parts.append(svg)

    def _claim(self, text, left, top, right, bottom):
        if left < 4 or top < 0 or right > WIDTH - 4 or bottom > self.height:
            raise ValueError(
                f"{self.title}: '{text}' leaves the picture: {left:.0f}..{right:.0f}, {top:.0f}..{bottom:.0f}"
            )
        for other, (x0, y0, x1, y1) in self.texts:
            if left < x1 and x0 < right and top < y1 and y0 < bottom:
                raise ValueError(f"{self.title}: '{text}' lies on '{other}'")
        self.texts.append((text, (left, top, right, bottom)))

    def svg(self):
        """The file's text."""
        body = "\n".join(self.parts)
        heads = [role for role in sorted(self.used) if f"#to-{role})" in body]
        shape = 'viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" markerUnits="userSpaceOnUse" orient="auto"'
        markers = "".join(
            f'<marker id="to-{r}" {shape}><path class="{r}" d="M0 0.5L8 4L0 7.5z"/></marker>' for r in heads
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.height}" width="{WIDTH}" '
            f'height="{self.height}" role="img" aria-labelledby="title desc">\n'
            f'<title id="title">{escape(self.title)}</title>\n<desc id="desc">{escape(self.description)}</desc>\n'
            f"<style>{style(self.used)}</style>\n"
            + (f"<defs>{markers}</defs>\n" if markers else "")
            + f"{body}\n</svg>\n"
        )
