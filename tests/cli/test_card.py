"""`mtl card`."""

from trained import copy_of


def test_a_card_is_written_again_but_not_over_a_change(run, tmp_path, mtl):
    copy = copy_of(run, tmp_path)
    (copy / "README.md").unlink()
    assert mtl("card", copy).out == f"saved in {copy / 'README.md'}\n"
    (copy / "README.md").write_text("mine\n")
    code, _, error = mtl("card", copy)
    assert (code, error) == (2, f"error: {copy / 'README.md'}: was changed by hand; add --overwrite to replace it\n")
    assert mtl("card", copy, "--overwrite").code == 0
    assert (copy / "README.md").read_text().startswith("---\n# written by mtlcli")
    (copy / "results.json").unlink()
    assert "is not finished (no results.json)" in mtl("card", copy).err
