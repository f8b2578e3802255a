"""The user's configuration: precedence, and one clear line for everything that is wrong."""

from __future__ import annotations

import pytest

from perun_hpc.config.user import OPTIONS, defaults, load, settings
from perun_hpc.errors import ConfigError


@pytest.fixture
def places(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    (home / ".config").mkdir(parents=True)
    here.mkdir()
    return home, here


def test_each_place_overrides_the_one_before(places, tmp_path):
    home, here = places

    def period(**more):
        arguments = {"environ": {}, "home": home, "directory": here, **more}
        return settings(load(**arguments)).sampling_period

    assert period() == 1
    (home / ".config" / "perun.ini").write_text("[monitor]\nsampling_period = 2\n")
    assert period() == 2
    (here / ".perun.ini").write_text("[monitor]\nsampling_period = 3\n")
    assert period() == 3
    (tmp_path / "my.ini").write_text("[monitor]\nsampling_period = 4\n")
    assert period(file=tmp_path / "my.ini") == 4
    environ = {"PERUN_SAMPLING_PERIOD": "5"}
    assert period(file=tmp_path / "my.ini", environ=environ) == 5
    assert period(file=tmp_path / "my.ini", environ=environ, overrides={"sampling_period": 6}) == 6
    assert period(environ=environ, overrides={"sampling_period": None}) == 5


def test_fault_21_zeros_count_and_both_spellings_of_the_emission_factor_work(places):
    home, here = places
    chosen = settings(
        load(environ={}, home=home, directory=here, overrides={"emissions_factor": 0, "price_factor": "0", "pue": 1.0})
    )
    assert (chosen.emissions_factor, chosen.price_factor) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[monitor]\nsampling_perod = 1\n", "did you mean 'sampling_period'"),
        ("[monitors]\nsampling_period = 1\n", "belongs into section [monitor]"),
        ("[monitor]\nsampling_period = fast\n", "must be a number"),
        ("[monitor]\nsampling_period = 0\n", "greater than 0"),
        ("[post-processing]\npue = 0.5\n", "at least 1"),
        ("[output]\nformat = yaml\n", "must be one of"),
        ("[benchmarking]\nmetrics = runtime,speed\n", "'speed' is no metric"),
        ("[benchmarking]\nrounds = 0\n", "at least 1"),
        ("no section\n", "cannot read"),
    ],
)
def test_fault_21_what_is_wrong_is_one_line_with_file_and_remedy(places, text, says):
    home, here = places
    (here / ".perun.ini").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(environ={}, home=home, directory=here)
    assert says in str(caught.value)
    assert ".perun.ini" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_fault_21_unknown_keywords_and_missing_files_are_errors(places, tmp_path):
    home, here = places
    with pytest.raises(ConfigError, match="app_name"):
        load(environ={}, home=home, directory=here, overrides={"app_nam": "x"})
    with pytest.raises(ConfigError, match="does not exist"):
        load(tmp_path / "none.ini", environ={}, home=home, directory=here)
    with pytest.raises(ConfigError, match="PERUN_PUE"):
        load(environ={"PERUN_PUE": "much"}, home=home, directory=here)


def test_a_foreign_parser_is_checked_when_it_is_frozen():
    parser = defaults()
    parser.set("monitor", "colour", "red")
    with pytest.raises(ConfigError, match="colour"):
        settings(parser)


def test_every_option_has_a_field_and_a_default_that_converts():
    assert set(vars(settings(defaults()))) == {option.name for option in OPTIONS}
