from reidlib.show import selectors


def test_selectors_are_absent_where_nobody_chooses(monkeypatch):
    """A variable of the server alone is no reader: a script may have inherited it."""
    monkeypatch.setenv(selectors.SESSION, "notebook.ipynb")
    assert not selectors.somebody_chooses()
    assert selectors.choose_person({}, {}, None) is None, "it does not look at what it is given"
