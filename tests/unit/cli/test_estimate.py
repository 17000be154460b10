"""`carbontrack estimate` on the command line."""

from __future__ import annotations

import json

import pytest

import carbontrack
from carbontrack.cli import main

A_DAY = ["estimate", "--gpu", "A100", "--gpus", "8", "--hours", "24"]


def test_json_has_the_figures_of_the_function(capsys: pytest.CaptureFixture[str]) -> None:
    """The command and the function give the same numbers under the same names."""
    assert main([*A_DAY, "--region", "FR", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    found = carbontrack.estimate(gpu="A100", gpus=8, hours=24, region="FR")
    assert printed == json.loads(json.dumps(found.to_dict()))


def test_an_earlier_year_is_told_with_its_grid(capsys: pytest.CaptureFixture[str]) -> None:
    """`--year` takes that year's figure, and the text names it."""
    assert main([*A_DAY, "--region", "FR", "--year", "2022"]) == 0
    assert "FR, 78.54 g CO2e/kWh in 2022" in " ".join(capsys.readouterr().out.split())


def test_minerals_and_metals_are_told_with_what_they_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In milligrams of antimony, with the interval and a sentence; no line where it is unknown."""
    assert main(["estimate", "--cpu", "EPYC 7763", "--hours", "2", "--region", "FR"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "metals 1.16 mg Sb eq (0.27 to 3.04 mg): the use of scarce minerals and metals" in text
    assert "the amount of antimony that would be as scarce" in text
    assert main(["estimate", "--gpu", "RTX 4090", "--hours", "2", "--region", "FR"]) == 0
    assert "Sb eq" not in capsys.readouterr().out


def test_text_tells_energy_emissions_and_how(capsys: pytest.CaptureFixture[str]) -> None:
    """A person reads figures with units, their interval, and what they were made from."""
    assert main([*A_DAY, "--ram-gib", "512", "--intensity", "100"]) == 0
    text = capsys.readouterr().out
    assert "kWh" in text
    assert " to " in text
    assert "8 x NVIDIA A100" in text
    assert "as given" in text


def test_the_making_says_what_of_a_server_is_not_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A tracker counts these parts, so that a record of the same run has more."""
    assert main(["estimate", "--gpu", "A100", "--hours", "1", "--region", "FR"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert ": the named hardware, without board, chassis, power supplies and drives" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gpu", "A10O", "--hours", "1", "--region", "FR"], "did you mean"),
        (["--gpu", "A100", "--region", "FR"], "hours"),
        (["--power-w", "3", "--hours", "1"], "give --region or --intensity; one of them is needed"),
        (["--hours", "1", "--region", "FR"], "needs --power-w, or hardware: --gpu or --cpu"),
        (["--power-w", "3", "--hours", "-1", "--region", "FR"], "--hours -1.0 is not"),
        (["--power-w", "3", "--hours", "x", "--region", "FR"], "--hours"),
        (["--power-w", "3", "--hours", "1", "--region", "Frnce"], "FR"),
        (["--power-w", "3", "--hours", "1", "--region", "FR", "--year", "1999"], "begin in 2000"),
        (
            ["--power-w", "3", "--hours", "1", "--intensity", "9", "--year", "2022"],
            "without --region",
        ),
    ],
)
def test_bad_usage_ends_with_2_and_says_why(
    options: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wrong input prints one error on stderr, nothing on stdout."""
    assert main(["estimate", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err


def test_verbose_names_the_source_of_the_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    """The short answer cites in brackets; with --verbose the source and its year stand in full."""
    ask = ["estimate", "--power-w", "1000", "--hours", "8", "--region", "FR"]
    assert main(ask) == 0
    short = capsys.readouterr().out
    assert main([*ask, "--verbose"]) == 0
    long = " ".join(capsys.readouterr().out.split())
    assert "[20" not in short
    assert "[20" in long
