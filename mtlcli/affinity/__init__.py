"""Which tasks help each other: cheap measures, measured gains, a grouping, and how well the former predict the gains."""
