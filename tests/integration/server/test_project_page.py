"""The page of a project in a real, headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.browsers import chromium
from tests.support.records import a_record
from tests.support.serving import Team

pytestmark = pytest.mark.xdist_group("browser")  # one browser for all tests

NASTY = "<script>window.owned = 1</script><img src=x onerror='window.owned = 1'>${css}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def sent(team: Team) -> None:
    runs = [
        a_record(
            number,
            name=(NASTY, "train resnet", "evaluate", "tune")[number % 4],
            started_at=f"2026-11-{10 + number % 15}T03:00:00Z",
            ended_at=f"2026-11-{10 + number % 15}T03:40:00Z",
            duration_s=2400.0,
            energy_kwh=0.3 + number % 7,
            energy_low_kwh=0.2 + number % 7,
            energy_high_kwh=0.6 + number % 7,
            intensity_low_g_per_kwh=40.0,
            intensity_high_g_per_kwh=90.0,
            emissions_g=56.0 * (0.3 + number % 7),
            basis=("measured", "modelled")[number % 3 == 0],
            cpu_basis=("measured", "modelled")[number % 3 == 0],
            host_id=f"node-{number % 3}",
        )
        for number in range(60)
    ]
    assert team.server.post(runs, team.send).status_code == 204


def opened(browser: Any, team: Team, token: str, path: str = "/") -> Any:
    context = browser.new_context(http_credentials={"username": "any", "password": token})
    page = context.new_page()
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.answer = page.goto(f"{team.server.url}{path}")
    return page


def test_the_page_shows_the_totals(team: Team, sent: None, browser: Any):
    """Figures and groups are there, nothing comes from elsewhere, and no text becomes markup."""
    page = opened(browser, team, team.read)
    figures = team.server.get("/v1/report", team.read).json()
    assert page.answer.status == 200
    assert "60 runs emitted" in page.inner_text("h1")
    rows = page.locator("tbody tr")
    assert rows.count() == len(figures["groups"]) + 1
    assert NASTY in page.inner_text("tbody")
    assert page.locator(".bar i").count() == len(figures["groups"])
    page.click("text=by day")
    assert page.locator("tbody tr").count() == 15 + 1
    assert page.locator("a[aria-current]").all_inner_texts() == ["by day", "all"]
    page.click("text=30 days")
    assert "since=" in page.url
    assert [url for url in page.asked if not url.startswith(team.server.url)] == []
    assert page.complaints == []
    page.goto(f"{team.server.url}/?by=label:model")
    page.click("footer a")  # the same password is good for the figures
    assert '"by": "label:model"' in page.inner_text("body")
    page.context.close()


def test_no_page_without_a_read_token(team: Team, browser: Any):
    """A wrong password, or a token for sending, shows no figure."""
    for token in ("wrong", team.send):
        page = opened(browser, team, token)
        assert page.answer.status == 401
        assert "runs emitted" not in page.content()
        page.context.close()


def test_the_page_allows_itself_nothing(team: Team):
    """Its policy has no scripts, no forms, no frames around it, and nothing from elsewhere."""
    answer = team.server.get("/", team.read)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "script" not in policy
    assert "<script" not in answer.text
    assert answer.headers["Referrer-Policy"] == "no-referrer"
