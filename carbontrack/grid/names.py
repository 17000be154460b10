"""Names of regions: from common spellings to the codes of the tables."""

from __future__ import annotations

import re
from functools import lru_cache

from carbontrack.errors import UnknownRegion, close_matches, did_you_mean
from carbontrack.grid import rows

PROVIDERS = (
    *("aws", "gcp", "azure", "oci", "ibm", "ovh", "scaleway", "hetzner", "digitalocean"),
    "alibaba",
)
_OTHER_NAMES = {
    "amazon": "aws",
    "google": "gcp",
    "microsoft": "azure",
    "oracle": "oci",
    "ovhcloud": "ovh",
    "do": "digitalocean",
}
# patterns are compiled when they are first used: a code is found without any
_NO_WORD = r"[\W_]+"
_PART_OF_A_COUNTRY = r"([A-Za-z]{2,3})[-_]([A-Za-z0-9]{1,3})"
"""The form of ISO 3166-2 codes; the tables have values for few of them."""
_INVERTED = r"([^,(]+)[,(]([^,()]+)\)?"
"""The form of "Korea, Republic of" and "Iran (Islamic Republic of)"."""
_ARTICLE = r"(?i)\bthe\s+"
_STATE = r"^.*?(?:republic|kingdom|states?|commonwealth|principality)of(?:the)?"
"""The common part of many countries' official names, in folded names."""
_CLOSE = (0.9, 0.8, 0.7)
"""The similarity of two spellings, from 0 to 1.

The best class that contains a name is suggested.
"""
_AVAILABILITY_ZONE = r"(?<=\d)-?[a-f]$|(?<=^[a-z]{3})\d$|-\d$"

_LISTED = "`carbontrack regions NAME` lists the known ones"
_Index = dict[str, tuple[str, ...]]


@lru_cache(maxsize=1024)
def normalise(region: str) -> str:
    """The code of a region: "Deutschland" -> "DE", "fra" -> "FR", "us-east-1" -> "aws:us-east-1".

    ISO codes take precedence ("CA" is Canada). If Alibaba reuses a region's name from AWS, the bare
    name means AWS.

    Raises:
        UnknownRegion: no region has this name, or several have; `matches` has the candidates.
    """
    if not isinstance(region, str) or not region.strip():
        raise UnknownRegion(f"{region!r} is not a region; write it as 'FR' or 'US-CA'; {_LISTED}")
    text = region.strip()
    found = _by_code(text) or _by_cloud(text) or _by_name(text)
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(f"{code!r} ({name_of(code)})" for code in found)
        raise UnknownRegion(f"region {region!r} may mean {choices}; write one of them", found)
    provider = text.lower().rstrip(":")
    provider = _OTHER_NAMES.get(provider, provider)
    if provider in PROVIDERS:
        listed = f"`carbontrack regions {provider}` lists its regions"
        raise UnknownRegion(f"region {region!r} is a cloud provider; {listed}")
    near = _near(text)
    raise UnknownRegion(f"unknown region {region!r}{did_you_mean(near) or ';'} {_LISTED}", near)


def name_of(code: str) -> str:
    """The English name of a code, or the code itself."""
    found = rows.row("cloud_regions" if ":" in code else "zones", code)
    return found["name"] if found else code


def part_of(country: str, name: str) -> str | None:
    """The code of the part of a country that has this name or code, "california" or "CA"; or None.

    Args:
        country: its code, such as "US".
        name: the part's name, in any spelling.
    """
    found = rows.row("names", fold(name)) or {}
    codes = [*found.get("codes", "").split(), f"{country}-{name.strip().upper()}"]
    inside = (code for code in codes if code.startswith(f"{country}-") and rows.row("zones", code))
    return next(inside, None)


def fold(text: str) -> str:
    """Letters and digits only, without case or accents, so that spellings can be compared."""
    if not text.isascii():
        import unicodedata

        text = unicodedata.normalize("NFKD", text.casefold())
        text = "".join(letter for letter in text if not unicodedata.combining(letter))
    return re.sub(_NO_WORD, "", text.lower().replace(" and ", ""))


def cloud_code(provider: str, region: str) -> str | None:
    """The code of a provider's region in any of the provider's spellings, or None.

    An availability zone is reduced to its region: ("aws", "us-east-1a"), ("gcp", "europe-west9-b"),
    ("Azure", "West Europe").
    """
    provider = provider.strip().lower()
    provider = _OTHER_NAMES.get(provider, provider)
    for spelling in (region.strip().lower(), re.sub(_NO_WORD, "", region.lower())):
        for code in (spelling, re.sub(_AVAILABILITY_ZONE, "", spelling)):
            if rows.row("cloud_regions", f"{provider}:{code}"):
                return f"{provider}:{code}"
    return None


def _by_code(text: str) -> tuple[str, ...]:
    """ISO alpha-2 and alpha-3, subdivisions, and the tables' other codes, in any case."""
    code = text.upper().replace("_", "-")
    if not (text.isascii() and code.replace("-", "").isalnum()):
        code = ""
    for candidate in filter(None, (code, code.replace("-", "_"))):
        if rows.row("zones", candidate):
            return (candidate,)
    if twice := rows.row("double_codes", code):  # a part of a country and a country: US-PR, PR
        return (twice["zone"],)
    zone = rows.key_of("zones", f",{code},") if len(code) == 3 else None
    return (zone,) if zone else ()


def _by_cloud(text: str) -> tuple[str, ...]:
    """A cloud's region, with its provider before a colon or, of five letters or more, alone."""
    provider, colon, region = text.partition(":")
    if colon:
        code = cloud_code(provider, region)
        return (code,) if code else ()
    if len(text) < 5:  # OVH's "DE" and "UK" are countries elsewhere
        return ()
    exact = (f"{provider}:{text.lower()}" for provider in PROVIDERS)
    codes = tuple(code for code in exact if rows.row("cloud_regions", code))
    # IBM's zone us-east-1 has the name of a region of AWS: an exact name comes first
    codes = codes or tuple(filter(None, (cloud_code(provider, text) for provider in PROVIDERS)))
    return tuple(code for code in codes if not code.startswith("alibaba:")) or codes


def _by_name(text: str) -> tuple[str, ...]:
    """A name, with or without an article, or with its end before its beginning."""
    forms = [text]
    if inverted := re.fullmatch(_INVERTED, text):
        forms.append(f"{inverted[2].strip()} {inverted[1]}")
    for form in (*forms, *(re.sub(_ARTICLE, "", form, count=1) for form in forms)):
        if found := rows.row("names", fold(form)):
            return tuple(found["codes"].split())
    return ()


def _add(index: _Index, key: str, code: str) -> None:
    if code not in index.get(key, ()):
        index[key] = (*index.get(key, ()), code)


def _near(text: str) -> tuple[str, ...]:
    """The codes with the closest spelling or name, best first, at most three.

    For a part of a country: its parts with a similar spelling, and the country; no other one.
    """
    near = _similar(text)
    part = re.fullmatch(_PART_OF_A_COUNTRY, text)
    if part is not None and (country := _by_code(part[1])):
        starts = (f"{country[0]}-", f"{country[0].lower()}-")
        own = [code for code in near if code.rpartition(":")[2].startswith(starts)]
        exact = _by_code(f"{country[0]}-{part[2]}")  # of "USA-CA"
        near = [*(exact or own[:2]), *country]
    return tuple(near[:3])


def _similar(text: str) -> list[str]:
    """The codes with the closest spelling or name, best first."""
    spelled: _Index = {}
    for row in rows.rows("names"):
        for code in row["codes"].split():
            _add(spelled, re.sub(_STATE, "", row["folded"]) or row["folded"], code)
    for table in ("zones", "cloud_regions"):
        for place in rows.rows(table):
            code = place.get("region") or place["zone"]
            parts = (code, code.partition(":")[2], code.partition("-")[2], place.get("alpha3", ""))
            for part in filter(None, parts):
                _add(spelled, fold(part), code)
    wanted = re.sub(_STATE, "", fold(text))
    # of two or three letters another one makes another code, not a misspelt one
    for cutoff in _CLOSE if len(wanted) > 3 else (1.0,):
        if close := close_matches(wanted, spelled, most=6, cutoff=cutoff):
            return list(dict.fromkeys(code for each in close for code in spelled[each]))
    return []
