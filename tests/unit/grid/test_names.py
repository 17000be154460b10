"""What a person writes is understood, or answered with what they may have meant."""

import pytest

from carbontrack.errors import UnknownRegion
from carbontrack.grid import rows
from carbontrack.grid.names import PROVIDERS, cloud_code, normalise


def meant_by(name):
    try:
        return (normalise(name),)
    except UnknownRegion as error:
        return error.matches


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("FR", "FR"),
        ("fr", "FR"),
        (" fr ", "FR"),
        ("fra", "FR"),
        ("France", "FR"),
        ("FRANCE", "FR"),
        ("Deutschland", "DE"),
        ("germany", "DE"),
        ("USA", "US"),
        ("United States of America", "US"),
        ("UK", "GB"),
        ("England", "GB"),
        ("California", "US-CA"),
        ("US-CA", "US-CA"),
        ("us_ca", "US-CA"),
        ("CA", "CA"),
        ("CA-QC", "CA-QC"),
        ("Québec", "CA-QC"),
        ("quebec", "CA-QC"),
        ("Côte d'Ivoire", "CI"),
        ("Cote d’Ivoire", "CI"),
        ("Ivory Coast", "CI"),
        ("Trinidad and Tobago", "TT"),
        ("日本", "JP"),
        ("türkiye", "TR"),
        ("Turkey", "TR"),
        ("New Mexico", "US-NM"),
        ("Washington", "US-WA"),
        ("world", "WORLD"),
        ("EU", "EU27"),
        ("latam-caribbean", "LATAM_CARIBBEAN"),
        ("aws:eu-west-3", "aws:eu-west-3"),
        ("AWS:EU-WEST-3", "aws:eu-west-3"),
        ("amazon:eu-west-3b", "aws:eu-west-3"),
        ("us-east-1", "aws:us-east-1"),
        ("us-east-1a", "aws:us-east-1"),
        ("us-east1", "gcp:us-east1"),
        ("us-east1-b", "gcp:us-east1"),
        ("us-east", "ibm:us-east"),
        ("gcp:europe-west9", "gcp:europe-west9"),
        ("google:europe-west9-a", "gcp:europe-west9"),
        ("azure:francecentral", "azure:francecentral"),
        ("azure:France Central", "azure:francecentral"),
        ("West Europe", "azure:westeurope"),
        ("westeurope", "azure:westeurope"),
        ("scaleway:fr-par-1", "scaleway:fr-par"),
        ("ovh:GRA", "ovh:gra"),
        ("digitalocean:nyc3", "digitalocean:nyc"),
        ("alibaba:us-east-1", "alibaba:us-east-1"),
    ],
)
def test_a_place_is_known_by_the_names_people_use(written, code):
    """Codes, names in several languages, cloud regions and their zones, in any case."""
    assert normalise(written) == code


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        ("Georgia", {"GE", "US-GA"}),
        ("Korea", {"KR", "KP"}),
        ("congo", {"CG", "CD"}),
        ("Virgin Islands", {"VG", "VI"}),
    ],
)
def test_a_name_of_several_places_is_an_error_that_lists_them(written, choices):
    """Nothing is guessed between two places."""
    with pytest.raises(UnknownRegion) as caught:
        normalise(written)

    assert set(caught.value.matches) == choices
    assert all(choice in str(caught.value) for choice in choices)


@pytest.mark.parametrize(
    ("written", "near"),
    [
        ("Frnace", "FR"),
        ("Germny", "DE"),
        ("TX", "US-TX"),
        ("aws:eu-west-9", "aws:eu-west-3"),
        ("us-eats-1", "aws:us-east-1"),
        ("Californa", "US-CA"),
        ("azure:francecentrall", "azure:francecentral"),
    ],
)
def test_a_near_miss_is_answered_with_what_was_meant(written, near):
    """A misspelt place is never billed as another one; the error offers the right name."""
    with pytest.raises(UnknownRegion) as caught:
        normalise(written)

    assert near in caught.value.matches
    assert near in str(caught.value)


@pytest.mark.parametrize(
    ("written", "offered"),
    [
        ("FR-IDF", ("FR",)),
        ("de-by", ("DE",)),
        ("GB_SCT", ("GB",)),
        ("IN-KA", ("IN",)),
        ("FRA-IDF", ("FR",)),
        ("ES-MD", ("ES",)),
        ("US-CAL", ("US-CA", "US-AL", "US")),
        ("USA-CA", ("US-CA", "US")),
        ("USA-PR", ("PR", "US")),
        ("CHN-HK", ("HK", "CN")),
        ("us-est", ("ibm:us-east", "US")),
        ("FR-PRS", ("scaleway:fr-par", "FR")),
        ("XX-YY", ()),
    ],
)
def test_for_an_unknown_part_of_a_country_the_country_is_offered(written, offered):
    """A code of ISO 3166-2 without figures leads to the country, after its parts spelt alike."""
    with pytest.raises(UnknownRegion) as caught:
        normalise(written)

    assert caught.value.matches == offered
    assert all(f"'{code}'" in str(caught.value) for code in offered)


@pytest.mark.parametrize(
    "written", ["", " ", "XXX", "qqqqqqqq", "a,b", "FR,", "\nFR", "aws:", ":", "aws:fr\n", None, 3]
)
def test_what_is_no_place_is_an_error(written):
    """Nonsense, separators and other types are refused; nothing is read into them."""
    if written == "\nFR":
        assert normalise(written) == "FR"  # space around a name is not part of it
        return
    with pytest.raises(UnknownRegion):
        normalise(written)


@pytest.mark.parametrize("written", ["EN", "GER", "ENG", "XX-YY", "Republic of Foo", "qqqqqqqq"])
def test_no_other_country_is_offered_for_what_resembles_none(written):
    """One letter more makes another code; and that two states are republics says nothing."""
    with pytest.raises(UnknownRegion) as caught:
        normalise(written)

    assert caught.value.matches == ()


@pytest.mark.parametrize(
    "written", ["Frnace", "XX", "ES-MD", "aws:eu-west-9", "Korea, Republik", 7]
)
def test_an_unknown_name_is_told_how_to_find_the_known_ones(written):
    """With and without a near one."""
    with pytest.raises(UnknownRegion, match="`carbontrack regions NAME` lists the known ones"):
        normalise(written)


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("Korea, Republic of", "KR"),
        ("Korea (the Republic of)", "KR"),
        ("Korea, Democratic People's Republic of", "KP"),
        ("Iran (Islamic Republic of)", "IR"),
        ("Bolivia, Plurinational State of", "BO"),
        ("bolivia (plurinational state of)", "BO"),
        ("Türkiye", "TR"),
        ("Viet Nam", "VN"),
        ("Congo (the Democratic Republic of the)", "CD"),
        ("Tanzania, the United Republic of", "TZ"),
        ("Virgin Islands, U.S.", "VI"),
        ("Virgin Islands (British)", "VG"),
        ("Saint Helena, Ascension and Tristan da Cunha", "SH"),
        ("Germany, Federal Republic of", "DE"),
        ("the Netherlands", "NL"),
        ("Bahamas (the)", "BS"),
        ("Swiss Confederation", "CH"),
        ("Republic of Rwanda", "RW"),
    ],
)
def test_official_names_are_known_in_each_order(written, code):
    """As ISO 3166-1 has them, with comma or brackets, and as people say them."""
    assert normalise(written) == code


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("US-AS", "AS"), ("US-GU", "GU"), ("US-MP", "MP"), ("US-PR", "PR"), ("US-UM", "UM"),
        ("US-VI", "VI"), ("CN-HK", "HK"), ("CN-MO", "MO"), ("CN-TW", "TW"), ("NL-AW", "AW"),
        ("NL-CW", "CW"), ("NL-SX", "SX"), ("FR-BL", "BL"), ("FR-GF", "GF"), ("FR-GP", "GP"),
        ("FR-MF", "MF"), ("FR-MQ", "MQ"), ("FR-NC", "NC"), ("FR-PF", "PF"), ("FR-PM", "PM"),
        ("FR-RE", "RE"), ("FR-TF", "TF"), ("FR-WF", "WF"), ("FR-YT", "YT"),
        ("FR-974", "RE"), ("fr_974", "RE"), ("CN-91", "HK"), ("FI-01", "AX"),
        ("NO-21", "SJ"), ("NO-22", "SJ"), ("NL-BQ1", "BQ"), ("us-pr", "PR"),
    ],
)  # fmt: skip
def test_a_territory_with_two_codes_has_one_zone(written, code):
    """Its code as a part of a country (ISO 3166-2), and that as a country (ISO 3166-1)."""
    assert normalise(written) == normalise(code) == code


def test_every_second_code_is_of_a_known_place_and_hides_none():
    """No code is in both tables, and each leads to a country."""
    for row in rows.rows("double_codes"):
        assert normalise(row["code"].lower()) == row["zone"]
        assert rows.row("zones", row["code"]) is None
        assert rows.row("zones", row["zone"])["kind"] == "country"


def test_every_code_and_name_of_a_country_means_one_zone():
    """Alpha-2, alpha-3, official and common name; but two names that ISO gives to two places."""
    pycountry = pytest.importorskip("pycountry", reason="the names of ISO 3166-1 are not there")
    for country in pycountry.countries:
        code = country.alpha_2
        written = {country.name, getattr(country, "common_name", country.name)}
        written |= {getattr(country, "official_name", country.name), code, country.alpha_3}
        written |= {text.lower() for text in written} | {text.upper() for text in written}
        for name in written:
            if name.lower() in ("congo", "georgia"):
                assert code in meant_by(name)
            else:
                assert (name, normalise(name)) == (name, code)


def test_every_code_of_the_tables_is_its_own_name():
    """Normalising is idempotent over all that the tables hold."""
    for table, key in (("zones", "zone"), ("cloud_regions", "region")):
        for row in rows.rows(table):
            assert normalise(row[key]) == row[key]
            assert normalise(row[key].lower()) == row[key]


def test_every_alias_names_known_places():
    """No alias leads nowhere, and each leads where it says or to a choice that holds it."""
    for alias in rows.rows("aliases"):
        assert rows.row("zones", alias["zone"]), alias
        assert alias["zone"] in meant_by(alias["name"])


def test_every_country_is_known_by_its_english_name():
    """The names of ISO 3166, as the tables write them."""
    for row in rows.rows("zones"):
        if row["kind"] == "country" and row["name"] != "Georgia":
            assert normalise(row["name"]) == row["zone"]


def test_every_provider_of_the_tables_is_searched():
    """A bare region's name is looked for at every provider."""
    assert {row["region"].partition(":")[0] for row in rows.rows("cloud_regions")} == set(PROVIDERS)


def test_an_unknown_cloud_region_has_no_code():
    """Asked by a machine, not by a person: no error, just nothing."""
    assert cloud_code("aws", "mars-north-1") is None
    assert cloud_code("nobody", "us-east-1") is None


@pytest.mark.parametrize(("text", "provider"), [("aws", "aws"), ("GCP:", "gcp"), ("Google", "gcp")])
def test_a_provider_alone_is_no_region(text: str, provider: str) -> None:
    """A cloud has regions in many grids; the error says how to list them."""
    with pytest.raises(UnknownRegion, match=rf"`carbontrack regions {provider}` lists its regions"):
        normalise(text)
