"""What `mtl report` writes: one page about one run or several, to be opened anywhere."""
