"""A second, explicit forward pass whose every site can be seen and edited, and the roles that tokens play.

The model itself knows nothing of this and pays nothing for it. Names of sites are those of TransformerLens."""
