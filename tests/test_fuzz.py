from tests import fuzz


def test_hostile_input_is_refused_with_an_error_of_ours() -> None:
    refused = fuzz.run(7000, seed=20)
    # Some of it must be refused and some taken: else the generator is of no use.
    assert all(100 < count < 950 for name, count in refused.items()), refused
