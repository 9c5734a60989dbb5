"""Problems in files and streams, and the batches made of them."""
