"""A search method for nasopt: the first layers of BERT, with the average of their hidden states as output."""
