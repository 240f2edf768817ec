"""The commit that results are said to be of."""

import subprocess

from reidlib import provenance


def test_changed_code_is_said_and_new_results_are_not(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path)
    assert provenance.commit() == "unknown"
    (tmp_path / "results").mkdir()
    code, results = tmp_path / "code.py", tmp_path / "results" / "runs.csv"
    for path in (code, results):
        path.write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = provenance.commit()
    assert len(clean) == 10
    results.write_text("2")
    (tmp_path / "new.py").write_text("1")
    assert provenance.commit() == clean
    code.write_text("2")
    assert provenance.commit() == f"{clean}+changes"
