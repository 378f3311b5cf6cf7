"""A web page to make objects on: `dreamfusion studio` for a batch, `dreamfusion view` for a run. It
needs no packages beyond the standard library, and imports no torch.
"""
