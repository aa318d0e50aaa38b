from mtlcli.templates.tasks import Example
from mtlcli.testing import check_task


def test_contract() -> None:
    check_task(Example)


def test_a_question_is_class_1() -> None:
    first, second = list(Example("mine").sample("train"))[:2]
    assert (first["sentence"], Example.target.parse({"label": first["kind"]})) == ("the baker will cook at home", 0)
    assert (second["sentence"], Example.target.parse({"label": second["kind"]})) == ("will the baker cook at home", 1)
