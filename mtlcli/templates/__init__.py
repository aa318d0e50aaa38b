"""What `mtl plugins new` starts from: one small working plugin of each family, called Example, and its test."""
