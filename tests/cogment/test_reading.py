"""What the Cogment front answers to questions about models and versions, row by row: as the original does, or better."""

from __future__ import annotations

import pytest

from tests.cogment.front import Registry, data_hash, refused
from tests.cogment_calls import SCHEMA

LEAST, MOST = -(2**31), 2**31 - 1


@pytest.fixture
def ten(registry: Registry, model: str) -> str:
    """A model with ten versions."""
    registry.make(model)
    for number in range(1, 11):
        registry.create(model, b"%d" % number)
    return model


# --- numbers -------------------------------------------------------------------------------------------------------


def test_minus_n_is_the_nth_newest_for_info_and_data(registry: Registry, ten: str) -> None:
    for back in (1, 2, 10):
        assert registry.data(ten, -back) == b"%d" % (11 - back)
        assert registry.infos(ten, -back)[0][0].version_number == 11 - back


@pytest.mark.parametrize("number", [0, 11, -11, -12, -13, LEAST, MOST])
def test_a_number_that_is_not_there_is_not_found_neither_info_nor_data(registry: Registry, ten: str, number: int) -> None:
    with refused("NOT_FOUND", ten):
        registry.infos(ten, number)
    with refused("NOT_FOUND", ten):
        registry.data(ten, number)


def test_behind_the_first_version_the_error_names_the_place(registry: Registry, ten: str) -> None:
    with refused("NOT_FOUND", "n-10"):
        registry.infos(ten, -11)


@pytest.mark.parametrize("number", [1, 0, -1, -2, LEAST])
def test_every_version_of_an_unknown_model_is_not_found_and_the_model_is_named(registry: Registry, number: int) -> None:
    for ask in (registry.infos, registry.data):
        with refused("NOT_FOUND", "nobody.*unknown-model"):
            ask("nobody", number)


def test_an_unknown_model_is_not_found_whatever_is_asked_of_it(registry: Registry) -> None:
    with refused("NOT_FOUND", "nobody"):
        registry.delete("nobody")
    with refused("NOT_FOUND", "nobody"):
        registry.models("nobody")
    with refused("NOT_FOUND", "nobody"):
        registry.infos("nobody")


# --- lists ---------------------------------------------------------------------------------------------------------


def test_one_that_is_unknown_refuses_the_whole_list(registry: Registry, ten: str) -> None:
    with refused("NOT_FOUND", "nobody"):
        registry.models(ten, "nobody")
    with refused("NOT_FOUND", "28"):
        registry.infos(ten, 1, 28, 2)


def test_an_explicit_list_is_answered_in_the_order_asked_twice_what_is_asked_twice(registry: Registry, ten: str) -> None:
    other = f"{ten}-other"
    registry.make(other)
    assert [name for name, _ in registry.models(other, ten, other)[0]] == [other, ten, other]
    infos, _ = registry.infos(ten, 7, -1, 2, 7)
    assert [info.version_number for info in infos] == [7, 10, 2, 7]


def test_an_empty_list_is_all_of_them_in_order_and_a_count_of_0_no_limit(registry: Registry, ten: str) -> None:
    names = [name for name, _ in registry.models()[0]]
    assert ten in names and names == sorted(names)
    assert registry.numbers(ten) == list(range(1, 11))
    empty = f"{ten}-empty"
    registry.make(empty)
    assert registry.infos(empty) == ([], "0")


# --- handles -------------------------------------------------------------------------------------------------------


def test_the_handle_of_models_is_an_offset_that_is_given_at_the_end_too(registry: Registry, model: str) -> None:
    for index in range(5):
        registry.make(f"{model}-{index}")
    everything, end = registry.models()
    assert end == str(len(everything))
    found, handle = [], ""
    while page := (answer := registry.models(count=2, handle=handle))[0]:
        found += page
        handle = answer[1]
        assert handle == str(len(found))
    assert (found, handle) == (everything, end)
    assert registry.models(count=2, handle=end) == ([], end)


def test_the_handle_of_listed_models_is_an_index_into_the_list(registry: Registry, model: str) -> None:
    names = [f"{model}-{index}" for index in (2, 0, 1)]
    for name in names:
        registry.make(name)
    first, handle = registry.models(*names, count=2)
    assert ([name for name, _ in first], handle) == (names[:2], "2")
    last, handle = registry.models(*names, handle=handle)
    assert ([name for name, _ in last], handle) == (names[2:], "3")
    assert registry.models(*names, handle="3") == ([], "3")


def test_the_handle_of_all_versions_is_the_number_to_go_on_from(registry: Registry, ten: str) -> None:
    for handle, count, numbers, following in (
        ("", 0, range(1, 11), "11"),
        ("", 4, range(1, 5), "5"),
        ("5", 4, range(5, 9), "9"),
        ("9", 4, range(9, 11), "11"),
        ("11", 4, (), "11"),
        ("1000", 4, (), "1000"),
    ):
        infos, told = registry.infos(ten, count=count, handle=handle)
        assert ([info.version_number for info in infos], told) == (list(numbers), following)


def test_the_handle_of_listed_versions_is_an_index_both_ways(registry: Registry, ten: str) -> None:
    asked, found, handle = (9, 3, -1, 1, 5), [], ""
    while page := (answer := registry.infos(ten, *asked, count=2, handle=handle))[0]:
        found += [info.version_number for info in page]
        handle = answer[1]
        assert handle == str(len(found))
    assert found == [9, 3, 10, 1, 5]


@pytest.mark.parametrize("handle", ["-1", "+1", "1.0", "x", " 1", "١", "9" * 40])
def test_a_handle_that_is_none_is_an_invalid_argument(registry: Registry, ten: str, handle: str) -> None:
    for ask in (
        lambda: registry.models(handle=handle),
        lambda: registry.models(ten, handle=handle),
        lambda: registry.infos(ten, handle=handle),
        lambda: registry.infos(ten, 1, handle=handle),
    ):
        with refused("INVALID_ARGUMENT", "handle"):
            ask()


def test_what_used_to_end_the_process_is_an_invalid_argument(registry: Registry, ten: str) -> None:
    chunk = SCHEMA["CreateVersionRequestChunk"]
    for ask in (
        lambda: registry.infos(ten, 1, 2, handle="3"),
        lambda: registry.infos(ten, 1, 2, count=3),
        lambda: registry.models(ten, handle="2"),
        lambda: registry.models(ten, count=2),
        lambda: registry.models(ten, handle="-1"),
        lambda: registry("CreateOrUpdateModel"),
        lambda: registry.send([chunk(header=SCHEMA["CreateVersionRequestChunk.Header"]())]),
    ):
        with refused("INVALID_ARGUMENT"):
            ask()
    assert registry.data(ten) == b"10"


# --- models --------------------------------------------------------------------------------------------------------


def test_to_make_a_model_again_replaces_its_user_data_and_leaves_its_versions(registry: Registry, ten: str) -> None:
    for user_data in ({"a": "1", "b": "2"}, {"c": "3"}, {}):
        registry.make(ten, **user_data)
        assert registry.models(ten)[0] == [(ten, user_data)]
    assert registry.numbers(ten) == list(range(1, 11))


def test_deleting_takes_everything_and_the_numbers_go_on(registry: Registry, model: str) -> None:
    for life in range(3):
        registry.make(model, life=str(life))
        for archived in (True, False):
            registry.create(model, b"weights", archived=archived)
        assert registry.numbers(model) == [2 * life + 1, 2 * life + 2]
        registry.delete(model)
        with refused("NOT_FOUND"):
            registry.data(model, 2 * life + 1)
    registry.make(model)
    assert registry.models(model)[0] == [(model, {})]
    assert registry.infos(model) == ([], "0")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "/etc", "a/b", "-v1", "a b", "a\0b", "ä", "x" * 129])
def test_a_name_that_is_none_is_an_invalid_argument_everywhere(registry: Registry, name: str) -> None:
    before = registry.models()
    for ask in (
        lambda: registry.make(name),
        lambda: registry.create(name, b"weights", archived=True),
        lambda: registry.delete(name),
        lambda: registry.models(name),
        lambda: registry.infos(name),
        lambda: registry.data(name),
        lambda: next(registry.updates(name)),
    ):
        with refused("INVALID_ARGUMENT"):
            ask()
    assert registry.models() == before


# --- data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archived", [False, True])
def test_a_client_with_default_limits_gets_any_size_in_chunks_of_2_mib(registry: Registry, model: str, archived: bool) -> None:
    data = bytes(range(256)) * (20 << 10) + b"rest"
    registry.make(model)
    info = registry.create(model, *[data[at : at + (3 << 20)] for at in range(0, len(data), 3 << 20)], archived=archived)
    assert info.data_hash == data_hash(data)
    chunks = registry.chunks(model)
    assert b"".join(chunks) == data
    assert [len(chunk) for chunk in chunks] == [2 << 20, 2 << 20, len(data) - (4 << 20)]
