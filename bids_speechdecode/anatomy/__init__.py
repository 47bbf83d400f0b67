"""Where contacts are: spaces, atlas labels, and the channels chosen by them."""
