"""Operations of an operator, for the command line and HTTP: lists, changes of single nodes, pauses, the plan of a
reload."""
