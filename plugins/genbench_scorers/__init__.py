"""Scorers from published weights: verifier, reward and metric by one interface; encoders for set metrics; ensembles."""
