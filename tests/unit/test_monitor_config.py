"""The user's configuration: precedence, and one clear line for everything that is wrong."""

from __future__ import annotations

import configparser

import pytest

from perun_hpc.cli.session import Session
from perun_hpc.config.option import explained
from perun_hpc.config.user import OPTIONS, UserSettings, defaults, load, settings, stated
from perun_hpc.errors import ConfigError
from perun_hpc.inject import rank as ranks
from perun_hpc.monitoring.application import Application
from perun_hpc.monitoring.outcome import call


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
        ("[monitor]\nsampling_period = fast\n", "expected a number above 0"),
        ("[monitor]\nsampling_period = 0\n", "'0' is not allowed: expected a number above 0"),
        ("[post-processing]\npue = 0.5\n", "expected a number of at least 1"),
        ("[output]\nformat = yaml\n", "expected one of: text, json"),
        ("[benchmarking]\nmetrics = runtime,speed\n", "expected in place of 'speed' one of: runtime, "),
        ("[benchmarking]\nrounds = 0\n", "expected a whole number of at least 1"),
        ("[benchmarking]\nrounds = 1.5\n", "expected a whole number of at least 1"),
        ("[output]\nformat = jsn\n", "did you mean 'json'?"),
        (
            "[post-processing]\nemissions_factor = DE\n",
            "a number of at least 0 or text like 'DEU' (a country's three letters), or nothing",
        ),
        ("[post-processing]\nprice_factor = nan\n", "a number of at least 0, or nothing"),
        ("[monitor]\nsampling_period = 1e999\n", "expected a number above 0"),
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


def test_blanks_around_a_number_do_not_count(places):
    home, here = places
    environ = {"PERUN_ROUNDS": " 3 ", "PERUN_SAMPLING_PERIOD": "0.5\n"}
    chosen = settings(load(environ=environ, home=home, directory=here))
    assert (chosen.rounds, chosen.sampling_period) == (3, 0.5)
    assert [text for _, text, _ in stated(environ=environ, home=home, directory=here)] == ["0.5", "3"]
    parser = defaults()
    parser.set("monitor", "sampling_period", " 2 ")
    assert settings(parser).sampling_period == 2


def test_a_value_with_control_characters_is_refused_in_one_harmless_line(places):
    home, here = places
    with pytest.raises(ConfigError) as caught:
        load(environ={"PERUN_PUE": "1\n\x1b[2J"}, home=home, directory=here)
    assert str(caught.value).isprintable()


def test_a_foreign_parser_is_checked_when_it_is_frozen():
    parser = defaults()
    parser.set("monitor", "colour", "red")
    with pytest.raises(ConfigError, match="colour"):
        settings(parser)
    parser = defaults()
    parser.set("post-processing", "pue", "0")
    with pytest.raises(ConfigError, match=r"configuration, \[post-processing\] pue: '0' is not allowed"):
        settings(parser)


def test_a_country_without_a_figure_is_said_before_the_start():
    with pytest.raises(ConfigError, match="emissions_factor: no carbon intensity for country 'XYZ': use its three"):
        Session.load(None, {"emissions_factor": "xyz"})
    assert Session.load(None, {"emissions_factor": "deu"}).settings.emissions_factor == "DEU"


def test_every_default_is_written_as_it_is_read():
    assert settings(defaults()) == UserSettings()
    assert [option.name for option in OPTIONS.values()] == list(vars(UserSettings()))
    assert all(option.doc for option in OPTIONS.values())


def test_values_are_read_as_people_and_programs_write_them(places):
    home, here = places
    given = {
        "sampling_period": 1e-05,
        "price_factor": 0.3,
        "emissions_factor": "deu",
        "rounds": "3.0",
        "metrics": ["energy", "co2"],
        "include_sensors": "a, b  c",
        "app_name": "None",
        "data_out": "/tmp/\udcff",
        "price_source": "the grid's report: 2025, p. 3",
    }
    found = settings(load(environ={}, home=home, directory=here, overrides=given))
    assert (found.sampling_period, found.price_factor, found.emissions_factor, found.rounds) == (1e-5, 0.3, "DEU", 3)
    assert (found.metrics, found.include_sensors, found.app_name) == (("energy", "co2"), ("a", "b", "c"), None)
    assert (found.data_out, found.price_source) == ("/tmp/\udcff", "the grid's report: 2025, p. 3")


def test_what_is_in_force_is_explained_by_the_place_that_decided_it(places):
    home, here = places
    (here / ".perun.ini").write_text("[monitor]\nsampling_period = 3\n[output]\nformat = json\n")
    environ = {"PERUN_FORMAT": "csv"}
    found = {one.name: (text, where) for one, text, where in stated(None, {}, environ, home, here)}
    assert found == {
        "sampling_period": ("3", f"{here / '.perun.ini'}, [monitor] sampling_period"),
        "format": ("csv", "environment variable PERUN_FORMAT"),
    }
    rows = [(OPTIONS["format"], "csv", "there"), (OPTIONS["app_name"], None, "default")]
    assert explained(rows) == ["output.format    csv   there", "output.app_name  none  default"]


def test_a_file_that_perun_1_0_printed_is_read(places):
    home, here = places
    text = "[output]\napp_name\nrun_id\nformat = text\n[benchmarking.units]\nsecond =\nbyte = M\n[debug]\nlog_file\n"
    filters = "[monitor]\ninclude_backends = \nexclude_sensors = CPU_FREQ_([1-9]+) NET_READ_BYTES_\n"
    (here / ".perun.ini").write_text(text + filters)
    found = settings(load(environ={}, home=home, directory=here))
    assert (found.app_name, found.run_id, found.log_file) == (None, None, None)
    assert (found.second, found.byte, found.include_backends) == ("", "M", ())
    assert found.exclude_sensors == ("CPU_FREQ_([1-9]+)", "NET_READ_BYTES_")


def test_a_key_without_a_value_is_refused_where_one_is_needed(places):
    home, here = places
    (here / ".perun.ini").write_text("[monitor]\nsampling_period\n")
    with pytest.raises(ConfigError, match=r"\[monitor\] sampling_period: '' is not allowed: expected a number above 0"):
        load(environ={}, home=home, directory=here)


def test_a_parser_of_the_callers_may_hold_keys_without_a_value_and_interpolate():
    parser = configparser.ConfigParser(allow_no_value=True)
    parser.read_string("[output]\napp_name\nrun_id = %(app_name)s\n[post-processing]\nprice_unit = 100 %\n")
    found = settings(parser)
    assert (found.app_name, found.run_id, found.price_unit, found.pue) == (None, "%(app_name)s", "100 %", 1)


def test_names_of_perun_1_0_for_levels_metrics_and_prefixes_are_known():
    given = {"log_lvl": "WARN", "metrics": "other_util other_memory", "watt": "µ", "second": "n", "joule": "p"}
    found = settings(load(environ={"HOME": "/nonexistent"}, overrides=given))
    assert found.log_lvl == "WARNING"
    assert found.metrics == ("other_util", "other_memory")


def test_none_clears_what_a_file_filters(places):
    home, here = places
    (here / ".perun.ini").write_text("[monitor]\nexclude_sensors = CPU\ninclude_backends = psutil\n")
    given = {"exclude_sensors": ["none"], "include_backends": ""}
    found = settings(load(environ={}, home=home, directory=here, overrides=given))
    assert (found.exclude_sensors, found.include_backends) == ((), ())


@pytest.mark.parametrize("option", ["include_sensors", "exclude_sensors", "include_backends", "exclude_backends"])
def test_an_expression_that_is_none_is_one_line(places, option):
    home, here = places
    with pytest.raises(ConfigError, match=r"in place of 'CPU\(' a regular expression \(") as caught:
        load(environ={}, home=home, directory=here, overrides={option: "psutil CPU("})
    assert "\n" not in str(caught.value)


def test_slurm_as_a_name_is_the_jobs(monkeypatch):
    parser = load(environ={"HOME": "/nonexistent"}, overrides={"app_name": "SLURM"})
    monkeypatch.setenv("SLURM_JOB_NAME", "nightly")
    assert Application("train.py", parser).name == "nightly"
    monkeypatch.delenv("SLURM_JOB_NAME")
    assert Application("train.py", parser).name == "train"


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python3", "train.py", "-c", "x"], "train"),
        (["python3", "-W", "ignore", "-u", "train.py"], "train"),
        (["python3.11", "-m", "timeit", "x"], "timeit"),
        (["/usr/bin/python3", "-c", "print(1)"], "python3"),
        (["python3", "-m"], "python3"),
        (["./a.out", "-c"], "a"),
    ],
)
def test_an_application_is_called_after_what_runs(command, name):
    assert Application(command[0], defaults(), args=tuple(command[1:])).name == name


def test_windows_of_a_decorated_function_ask_the_process_that_samples_for_it():
    asked = []
    app = Application(lambda: asked.append(ranks.current.socket if ranks.current else None), defaults())
    for rank in ({"PERUN_SOCKET": "/nowhere/desk"}, {"PERUN_SOCKET": ""}, None):
        assert call(app, rank).trouble is None
        assert ranks.current is None
    assert asked == ["/nowhere/desk", None, None]
