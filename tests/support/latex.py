"""A strict reader of LaTeX: balanced, every special character escaped, tables without gaps."""

from __future__ import annotations

import re

_MACROS = {
    *("begin", "end", "centering", "small", "footnotesize", "caption", "label", "cite", "par"),
    *("smallskip", "setlength", "tabcolsep", "toprule", "midrule", "bottomrule", "linewidth"),
    *("textbackslash", "textasciitilde", "textasciicircum", "textmu", "texttimes", "textless"),
    *("textellipsis", "textbraceleft", "textbraceright", "textgreater", "textbar"),
    *("textsubscript", "{", "}", "&", "%", "$", "#", "_", "\\"),
}
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|([{}&#$^_~%])|\n")


def check_latex(text: str) -> None:
    """Fail where TeX would not read the text as it is meant."""
    lines = [line for line in text.split("\n") if not line.startswith("% ")]
    body = "\n".join(lines)
    depth = 0
    for found in _TOKEN.finditer(body):
        macro, special = found.groups()
        assert macro is None or macro in _MACROS, f"\\{macro}"
        depth += {"{": 1, "}": -1}.get(special, 0)
        assert depth >= 0, body[: found.end()][-80:]
        assert special not in ("#", "$", "^", "_", "%"), body[: found.end()][-80:]
        if special == "~":
            assert body[found.end() :].startswith("\\cite{"), body[found.end() :][:20]
    assert depth == 0
    open_: list[str] = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_
    outside = re.sub(r"\\begin\{tabular\}.*?\\end\{tabular\}", "", body, flags=re.DOTALL)
    assert not re.search(r"(?<!\\)&", outside)


def tables_of(text: str) -> list[list[list[str]]]:
    """The cells of the rows of each table; each row has as many as there are columns."""
    found = []
    for columns, body in re.findall(
        r"\\begin\{tabular\}\{((?:[lrc]|p\{[^}]*\})+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL
    ):
        count = len(re.sub(r"p\{[^}]*\}", "p", columns))
        lines = [line for line in body.split("\n") if line and not line.endswith("rule")]
        assert all(line.endswith(r" \\") for line in lines)
        assert not any(line.startswith(("[", "*")) for line in lines)
        rows = [re.split(r"(?<!\\) ?& ", line.removesuffix(r" \\")) for line in lines]
        assert {len(row) for row in rows} == {count}, rows
        found.append(rows)
    return found
