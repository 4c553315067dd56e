"""The page in a real browser: Debian's chromium and chromium-driver. `make browser-test` runs these tests.

It brings axe-core, which looks for what people who cannot see or use a mouse would stumble over.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.harness.talk import Talk
from tests.harness.waiting import until
from tests.harness.web import ADMIN, HOSTILE_CHAT, PETR, STRANGER, USER_HEADER, Page

pytestmark = [
    pytest.mark.skipif(os.environ.get("BROWSER_TEST") != "1", reason="make browser-test runs it"),
    # selenium's own client leaves its sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

OPS = "681869378@chat.agent"
AXE = Path(__file__).parent / "axe/node_modules/axe-core/axe.min.js"
SINCE = f"{datetime.now(UTC) - timedelta(days=28):%Y-%m-%dT%H:%M:%S}"
PAGES = {
    "home": "/", "search": "/?q=backup&who=Анна", "nothing": "/?q=qqqzzzxxxwww", "chat": f"/c/{OPS}",
    "hostile": f"/c/{HOSTILE_CHAT}", "today": f"/today?since={SINCE}", "activity": "/activity?days=365",
    "health": "/health", "missing": "/nothing", "signed-out": "/",
}  # fmt: skip


class Browser:
    """A headless browser behind the proxy, as one person.

    Args:
        page: the page.
        driver: selenium's.
    """

    def __init__(self, page: Page, driver: Any) -> None:
        self.page = page
        self.driver = driver
        self.asked: list[str] = []
        """The addresses of all requests so far."""
        self.expected = r"(?!)"
        """A pattern of them."""

    def open(self, path: str) -> None:
        """Go to an address of the page."""
        self.driver.get(f"http://127.0.0.1:{self.page.port}{path}")

    @property
    def path(self) -> str:
        """Where the browser is."""
        parts = urlsplit(self.driver.current_url)
        return parts._replace(scheme="", netloc="").geturl()

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script answers."""
        return self.driver.execute_script(f"return {script}", *arguments)

    def all(self, selector: str) -> list[Any]:
        """The elements."""
        return list(self.driver.find_elements("css selector", selector))

    def one(self, selector: str) -> Any:
        """The first element, as soon as there is one."""
        return until(lambda: next(iter(self.all(selector)), None), 20, selector)

    def press(self, *keys: str) -> None:
        """Press keys wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def size(self, width: int, height: int, *, phone: bool = False) -> None:
        """Set the size of the window."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, **features: str) -> None:
        """Set what the person prefers, such as dark colours."""
        pairs = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": pairs})

    def become(self, user: str | None) -> None:
        """The proxy signs another person in, or nobody."""
        headers = {} if user is None else {USER_HEADER: user}
        self.driver.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": headers})

    def check(self) -> None:
        """No error in the console but those that the test expects, and no request to anywhere else."""
        errors = [
            line for line in self.driver.get_log("browser")
            if line["level"] in ("SEVERE", "WARNING") and not re.search(self.expected, line["message"])
        ]  # fmt: skip
        assert not errors, errors
        for line in self.driver.get_log("performance"):
            event = json.loads(line["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                self.asked.append(event["params"]["request"]["url"])
        # The browser's own icons, such as that of a date, are data.
        self.asked = [address for address in self.asked if not address.startswith("data:")]
        assert {urlsplit(address).netloc for address in self.asked} == {f"127.0.0.1:{self.page.port}"}, self.asked


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One browser for all tests; its window is new for each."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    assert all(programs), "install Debian's chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars",
        "--disable-background-networking", "--no-first-run", "--disable-component-update",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):  # fmt: skip
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"intl.accept_languages": "en"})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(str(programs[1])))
    yield made
    made.quit()


@pytest.fixture
def browser(driver: Any, page: Page) -> Iterator[Browser]:
    """The browser as Petr sees the page, without cookies; afterwards there was no error and no request elsewhere."""
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.clearBrowserCookies", {})
    browser = Browser(page, driver)
    browser.become(PETR)
    browser.size(1200, 900)
    browser.prefer(prefers_color_scheme="light")
    driver.get_log("browser"), driver.get_log("performance")
    yield browser
    browser.check()
    browser.open("/static/icon.svg")


@pytest.fixture
def picture(browser: Browser) -> Callable[[str], None]:
    """Takes a screenshot where BROWSER_PICTURES names a directory."""

    def take(name: str) -> None:
        if directory := os.environ.get("BROWSER_PICTURES"):
            browser.driver.save_screenshot(str(Path(directory) / f"{name}.png"))

    return take


def _find(browser: Browser, words: str) -> None:
    field = browser.one("#q")
    field.clear()
    field.send_keys(words + "\ue007")  # Enter
    until(lambda: browser.all(".hits article") and words in browser.driver.title, 20, "the hits")


def test_a_search_opens_its_conversation_and_back_leads_to_the_hits(
    browser: Browser, picture: Callable[[str], None]
) -> None:
    browser.open("/")
    picture("home")
    loads = browser.run("performance.timeOrigin")
    _find(browser, "OPS-142")
    assert browser.path == "/?q=OPS-142"
    assert browser.one("mark").text == "OPS-142"
    picture("search")
    browser.one("a.cover").click()
    hit = browser.one("#hit")
    assert browser.path.startswith("/m/") and browser.path.endswith("#hit")
    middle = until(lambda: browser.run("document.getElementById('hit').getBoundingClientRect().top"), 10, "the place")
    assert 100 < middle < 800 and hit.is_displayed()
    picture("chat")
    browser.driver.back()
    until(lambda: browser.all(".hits"), 20, "the hits again")
    assert browser.path == "/?q=OPS-142" and browser.one("#q").get_attribute("value") == "OPS-142"
    assert browser.run("performance.timeOrigin") == loads, "no page was loaded anew"


def test_a_filter_is_set_and_taken_away(browser: Browser, picture: Callable[[str], None]) -> None:
    browser.open("/?q=сервер")
    before = len(browser.all(".hits article"))
    browser.one(".filters summary").click()
    who = browser.one("input[name=who]")
    who.send_keys("Анна")
    until(lambda: browser.all("#people option[value='Анна Иванова']"), 20, "the names that complete it")
    who.send_keys("\ue007")
    chip = browser.one(".chips a")
    assert "Анна Иванова" in chip.text and "who=" in browser.path
    assert {each.text for each in browser.all(".hits .author")} == {"Анна Иванова"}
    picture("filter")
    chip.click()
    until(lambda: not browser.all(".chips"), 20, "no filter")
    assert "who=" not in browser.path and len(browser.all(".hits article")) == before


def test_keys_move_and_open(browser: Browser) -> None:
    browser.open("/?q=backup")
    browser.one(".hits")
    browser.press("j", "j", "k", "j")
    assert browser.all(".hits li")[1].get_attribute("class") == "chosen"
    browser.press("/")
    assert browser.run("document.activeElement.id") == "q"
    browser.press("\ue00c")  # Escape
    browser.press("?")
    assert browser.one("#help").is_displayed()
    browser.press("\ue00c")
    until(lambda: not browser.one("#help").is_displayed(), 10, "the help is closed")
    browser.press("k", "\ue007")
    browser.one("#hit")


def test_a_chat_grows_at_both_ends_and_repeats_nothing(browser: Browser) -> None:
    (total,) = browser.page.office.rows("SELECT count(*) FROM messages WHERE chat_id = %s", OPS)[0]
    middle = browser.page.office.rows(
        "SELECT msg_id FROM messages WHERE chat_id = %s ORDER BY sent_at OFFSET %s LIMIT 1", OPS, total // 2
    )
    browser.open(f"/m/{OPS}/{middle[0][0]}#hit")
    browser.one("#hit")

    def all_there() -> bool:
        browser.run("(scrollTo(0, 0), scrollTo(0, document.documentElement.scrollHeight), 1)")
        return not browser.all("a.older, a.newer")

    until(all_there, 60, "both ends of the chat", 0.2)
    clocks = browser.run("[...document.querySelectorAll('a.clock')].map(each => each.href)")
    assert len(clocks) == total == len(set(clocks))
    days = browser.run("[...document.querySelectorAll('.day')].map(each => each.dataset.day)")
    assert days == sorted(set(days))


def test_language_and_colours_are_chosen_and_stay(browser: Browser, picture: Callable[[str], None]) -> None:
    browser.open("/?q=backup")
    assert browser.run("document.documentElement.lang") == "en"
    light = browser.run("getComputedStyle(document.body).backgroundColor")
    browser.one("footer button[name=language]").click()
    until(lambda: browser.run("document.documentElement.lang") == "ru", 20, "Russian")
    assert browser.path == "/?q=backup", "the question stays"
    browser.one("footer button[value=dark]").click()
    until(lambda: browser.run("getComputedStyle(document.body).backgroundColor") != light, 20, "dark colours")
    browser.open("/")
    assert browser.run("document.documentElement.lang") == "ru"
    assert browser.run("document.documentElement.dataset.theme") == "dark"
    picture("dark")


def test_the_systems_colours_are_taken(browser: Browser) -> None:
    browser.prefer(prefers_color_scheme="dark")
    browser.open("/")
    red, green, blue = (int(n) for n in browser.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g)"))
    assert red + green + blue < 150


@pytest.mark.parametrize("path", ["/", "/?q=backup", f"/c/{OPS}", f"/c/{HOSTILE_CHAT}", "/activity?days=365"])
def test_a_phone_never_scrolls_sideways(browser: Browser, path: str, picture: Callable[[str], None]) -> None:
    browser.size(360, 740, phone=True)
    browser.open(path)
    browser.one("main")
    assert browser.run("document.documentElement.scrollWidth") <= 360
    for link in browser.all(".who a"):
        assert link.size["height"] < 30, "its words stand on one line"
    picture(f"phone{path.partition('?')[0].replace('/', '-')}")


def test_hours_are_the_browsers(browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "Asia/Vladivostok"})
    try:
        browser.open(f"/c/{OPS}")
        until(lambda: browser.run("document.cookie.includes('Vladivostok')"), 10, "the zone is told")
        browser.open(f"/c/{OPS}")
        shown, moment = browser.run(
            "(() => { const time = document.querySelector('a.clock time');"
            " return [time.textContent, new Date(time.dateTime).toLocaleTimeString('en-GB').slice(0, 5)] })()"
        )
        assert shown == moment
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_it_works_without_scripts(browser: Browser) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.open("/")
        browser.one("#q").send_keys("OPS-142\ue007")
        browser.one("a.cover").click()
        assert browser.one("#hit").is_displayed()
        browser.one("a.newer").click()
        browser.one("a.older")
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_the_page_of_what_is_new_renews_itself(browser: Browser, picture: Callable[[str], None]) -> None:
    browser.open(f"/today?since={SINCE}")
    picture("today")
    before = browser.run("document.getElementById('news-since').textContent")
    link = browser.one(".news li[data-item] a")
    browser.run("arguments[0].focus()", link)
    address = link.get_attribute("href")
    until(lambda: browser.run("performance.getEntriesByType('resource').some(e => e.name.includes('/today/live'))")
          or browser.run("!document.hidden"), 20, "the stream")  # fmt: skip
    news = "document.getElementById('news').innerText"  # at once: the page may replace the element at any time
    talk = Talk(browser.page.office.url, datetime.now(UTC) - timedelta(minutes=1))
    talk._number = 990_000
    try:
        talk.say("live", "zloydey said a word while the page was open", who=PETR, chat=HOSTILE_CHAT)
        until(lambda: "while the page was open" in browser.run(news), 20, "what was said")
        assert browser.run("document.getElementById('news-since').textContent") != before
        assert browser.run("document.activeElement.href") == address, "the focus stays"
    finally:
        talk.delete("live", chat=HOSTILE_CHAT)
        talk.close()
    until(lambda: "while the page was open" not in browser.run(news), 20, "what was deleted")


def test_each_picture_is_shown_in_the_colours_and_width_of_the_window(
    browser: Browser, picture: Callable[[str], None]
) -> None:
    shown = "[...document.querySelectorAll('picture img')].map(each => [each.naturalWidth, each.currentSrc])"
    for width, scheme, wide in ((1200, "light", True), (360, "dark", False)):
        browser.size(width, 900, phone=not wide)
        browser.prefer(prefers_color_scheme=scheme)
        browser.open("/activity")
        until(lambda: all(natural for natural, _ in browser.run(shown)), 20, "the pictures")
        pictures = browser.run(shown)
        assert len(pictures) == 5
        for natural, address in pictures:
            assert natural == (720 if wide else 360) and ("narrow=1" not in address) == wide
            assert ("dark=1" in address) == (scheme == "dark")
        picture(f"activity-{scheme}")


@pytest.mark.parametrize("name", PAGES)
def test_axe_core_finds_nothing_serious(browser: Browser, name: str, picture: Callable[[str], None]) -> None:
    browser.become(None if name == "signed-out" else ADMIN if name == "health" else PETR)
    browser.expected = r"status of 40[14]"
    browser.driver.set_script_timeout(60)
    serious = set()
    for scheme, (width, height, phone) in itertools.product(("light", "dark"), ((1200, 900, False), (360, 740, True))):
        browser.size(width, height, phone=phone)
        browser.prefer(prefers_color_scheme=scheme)
        browser.open(PAGES[name])
        browser.driver.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
        browser.driver.execute_script(AXE.read_text())
        found = browser.driver.execute_async_script(
            "axe.run(document, {resultTypes: ['violations']}).then(arguments[0], each => arguments[0](String(each)))"
        )
        assert isinstance(found, dict), found
        serious |= {
            (scheme, width, each["id"], node["html"][:200])
            for each in found["violations"]
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"][:5]
        }
        picture(f"axe-{name}-{scheme}-{width}")
    assert not serious, "\n".join(map(str, sorted(serious)))


def test_two_people_see_their_own_chats(browser: Browser) -> None:
    browser.open("/")
    mine = len(browser.all(".chat-list li"))
    browser.become(STRANGER)
    browser.open("/")
    assert mine > 2 and not browser.all(".chat-list li")
