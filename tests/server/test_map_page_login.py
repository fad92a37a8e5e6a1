"""The map page under authentication, in Chromium: who gets in, and who may change the campaign."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect
from realm_case import ROLES, RealmServer, guarded_server

from coldstart.adapters.server import Server
from map_window import WAIT_S, MapWindow, chromium, new_context, require_chromium

READER, LEAD = "reader", "lead"


@pytest.fixture(scope="module")
def realm() -> Iterator[RealmServer]:
    require_chromium()
    with RealmServer() as realm:
        token = realm.token
        realm.token = lambda user: token(user, ROLES if user == LEAD else ROLES[:2])  # type: ignore[method-assign]
        yield realm


@pytest.fixture(scope="module")
def server(realm: RealmServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with guarded_server(realm, tmp_path_factory.mktemp("login")) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=WAIT_S * 1000)
    with chromium() as browser:
        yield browser


def log_in(window: MapWindow, name: str, password: str) -> None:
    dialog = window.page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Password").fill(password)
    dialog.get_by_role("button", name="Log in").click()


def test_nobody_sees_anything_before_the_login(browser: Browser, server: Server, realm: RealmServer) -> None:
    with new_context(browser) as context, MapWindow(context, server.url) as window:
        window.visit(tab="campaign")
        expect(window.page.get_by_role("dialog")).to_be_visible()
        window.page.keyboard.press("Escape")
        expect(window.page.get_by_role("dialog")).to_be_visible()
        assert "case_" not in window.page.content()
        log_in(window, READER, "wrong")
        expect(window.page.get_by_role("alert")).to_contain_text("refuses this name and password")
        log_in(window, READER, realm.password)
        window.page.locator("#map[data-drawn='8']").wait_for()
        expect(window.page.locator("#account")).to_contain_text(READER)
        assert realm.password not in str(window.page.evaluate("Object.values(sessionStorage)"))
        window.page.get_by_role("button", name="Log out").click()
        expect(window.page.get_by_role("dialog")).to_be_visible()
        assert window.elsewhere == []


def test_reader_tries_out_but_does_not_change_the_campaign(
    browser: Browser, server: Server, realm: RealmServer
) -> None:
    with new_context(browser) as context, MapWindow(context, server.url) as window:
        window.visit(tab="next", alpha="0.9")
        log_in(window, READER, realm.password)
        expect(window.panel).to_contain_text("Reviewers and administrators may")
        expect(window.panel.get_by_role("button", name="Use this")).to_be_disabled()
        expect(window.panel.locator("ol.next li")).not_to_have_count(0)
        window.page.get_by_role("tab", name="Campaign").click()
        train = window.panel.get_by_role("button", name="Train", exact=True)
        expect(train).to_be_disabled()
        expect(train).to_have_accessible_description("Reviewers and administrators may do this.")
        window.page.get_by_role("tab", name="What comes next").click()
        window.wait("document.querySelector('ol.next img').naturalWidth > 0")  # pictures come with the login too


def test_lead_makes_values_the_campaigns(browser: Browser, server: Server, realm: RealmServer) -> None:
    with new_context(browser) as context, MapWindow(context, server.url) as window:
        window.visit(tab="next", alpha="0.9")
        log_in(window, LEAD, realm.password)
        window.panel.get_by_role("button", name="Use this").click()
        expect(window.panel).to_contain_text(f"alpha 0.9 was chosen by {LEAD}")


def test_what_an_ended_login_refused_is_asked_for_again(browser: Browser, server: Server, realm: RealmServer) -> None:
    with new_context(browser) as context, MapWindow(context, server.url) as window:
        window.visit(tab="image")
        log_in(window, READER, realm.password)
        window.page.locator("#map[data-drawn='8']").wait_for()
        window.page.get_by_role("combobox").fill("case_")
        image_id = window.page.get_by_role("option").first.inner_text()
        window.page.evaluate("sessionStorage.clear()")
        window.page.evaluate("image => { location.hash = `tab=image&image=${image}` }", image_id)
        expect(window.page.get_by_role("dialog")).to_be_visible()
        log_in(window, READER, realm.password)
        expect(window.panel.get_by_role("button", name="Show on the map")).to_be_visible()
        window.wait("document.querySelector('img.photo.here') !== null")
