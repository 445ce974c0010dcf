"""Topic names: what is made is parsed back, and nothing else is accepted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.codec import encode
from consensus.errors import DecodeError, InputError
from contracts.calls import SubmitReading
from contracts.topics import (
    BrokerAddress,
    Purpose,
    decode_epochs_page,
    decode_receipt_notice,
    epochs_of_node,
    epochs_pages,
    epochs_topic,
    every_epochs,
    every_meter,
    meter_topic,
    parse_broker_url,
    parse_topic,
)
from meters.reading import MeterIdentity, sign_reading
from tests.meters.chain import START_MS, Chain, make_genesis, meter_key

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)


def test_the_names_that_users_rely_on() -> None:
    assert meter_topic("main", "M1", Purpose.READING) == "gridpact/main/meters/M1/reading"
    assert every_meter("main", Purpose.RECEIPT) == "gridpact/main/meters/+/receipt"
    assert [purpose.value for purpose in Purpose] == ["reading", "status", "setpoint", "receipt"]


@given(NAMES, NAMES, st.sampled_from(list(Purpose)))
def test_round_trip(channel: str, meter: str, purpose: Purpose) -> None:
    assert parse_topic(meter_topic(channel, meter, purpose)) == (channel, meter, purpose)


@given(st.text(max_size=80))
def test_any_other_text_is_refused_or_round_trips(text: str) -> None:
    try:
        topic = parse_topic(text)
    except InputError:
        return
    assert meter_topic(*topic) == text


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_name_never_reaches_into_other_topics(channel: str, meter: str) -> None:
    try:
        topic = meter_topic(channel, meter, Purpose.READING)
    except InputError:
        return
    assert topic.count("/") == 4
    assert not {"+", "#", "\0"} & set(topic)


@pytest.mark.parametrize(
    "text",
    [
        "gridpact/main/meters/M1",
        "gridpact/main/meters/M1/reading/",
        "/gridpact/main/meters/M1/reading",
        "gridpact/main/meters//reading",
        "gridpact/main/meters/+/reading",
        "gridpact/main/meters/M1/READING",
        "gridpact/main/nodes/M1/reading",
        "gridpact/main/meters/M1\n/reading",
        "gridpact/main/meters/M1/reading\n",
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_topic(text)


def test_broker_urls() -> None:
    assert parse_broker_url("mqtt://10.0.0.1") == BrokerAddress("10.0.0.1", 1883, False)
    assert parse_broker_url("mqtts://broker.example:9999/") == BrokerAddress("broker.example", 9999, True)
    assert parse_broker_url("mqtts://broker.example") == BrokerAddress("broker.example", 8883, True)
    assert parse_broker_url("mqtt://[::1]:1884") == BrokerAddress("::1", 1884, False)
    for url in ("", "http://x", "mqtt://", "mqtt://h:99999", "mqtt://h:0", "mqtt://u:p@h", "mqtt://h/topic", "mqtt://h?x=1", "mqtt://[::1"):
        with pytest.raises(InputError):
            parse_broker_url(url)


@given(st.text(max_size=60))
def test_any_text_is_a_broker_url_or_refused(text: str) -> None:
    try:
        address = parse_broker_url(text)
    except InputError:
        return
    assert address.host
    assert 0 < address.port < 65536


def test_receipt_notices_round_trip_and_bad_ones_are_refused() -> None:
    genesis = make_genesis(["M1"])
    reading = SubmitReading(1, START_MS, 0, 0, "ntp", "boot", 0)
    signed = sign_reading(MeterIdentity.of(genesis, "M1", meter_key("M1")), reading, 1, START_MS)
    notice = Chain(genesis).notices([signed.raw])[0]
    assert decode_receipt_notice(encode(notice)) == notice
    for bad in (b"", encode(notice)[:-1], encode((notice.transaction_id,)), bytes(300_000)):
        with pytest.raises(DecodeError):
            decode_receipt_notice(bad)


def test_epochs_are_published_under_the_name_of_the_node_that_proves_them() -> None:
    assert epochs_topic("main", "dc0", 3) == "gridpact/main/epochs/dc0/3"
    assert epochs_of_node("main", "dc0") == "gridpact/main/epochs/dc0/+"
    assert every_epochs("main") == "gridpact/main/epochs/+/+"
    for channel, node in (("+", "dc0"), ("main", "dc0/1"), ("main", "#"), ("", "dc0"), ("main", "")):
        with pytest.raises(InputError):
            epochs_topic(channel, node, 0)
        with pytest.raises(InputError):
            epochs_of_node(channel, node)
    with pytest.raises(InputError):
        every_epochs("a/b")


@given(st.lists(st.integers(0, 256 * 1024), max_size=12))
def test_pages_hold_all_changes_in_order_and_none_is_too_large(sizes: list[int]) -> None:
    changes = [bytes(size) for size in sizes]
    pages = epochs_pages(changes)
    assert [change for page in pages for change in decode_epochs_page(page)] == changes
    assert all(page != encode(()) for page in pages)
    for count in range(len(changes)):
        assert epochs_pages(changes[:count])[:-1] == pages[: max(len(epochs_pages(changes[:count])) - 1, 0)], "full pages never change"


def test_small_changes_share_a_page() -> None:
    assert len(epochs_pages([bytes(1000)] * 500)) == 1
    assert len(epochs_pages([bytes(1000)] * 600)) == 2
    assert epochs_pages([]) == ()
