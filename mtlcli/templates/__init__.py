"""Templates of `mtl plugins new`: one small working plugin of each family, called Example, and its test."""
