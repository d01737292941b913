"""The method of the paper: null spaces, translators, scores, steering; torch alone."""
