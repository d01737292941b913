"""What a chapter shows and finds, on the page and in JupyterLab alike."""
