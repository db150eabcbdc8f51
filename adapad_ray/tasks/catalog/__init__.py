"""Tasks that go by a name: packaged data, GLUE, SQuAD, and the linear setting."""
