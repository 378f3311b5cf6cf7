"""A web page to make objects on: `dreamfusion studio` for a batch, `dreamfusion view` for a run.

library  what the page shows and does, for the jobs of a batch or one run; reads it from the folder
queue    runs the jobs of a batch in a thread, with the driver of `dreamfusion batch`
server   serves the page: who may ask, and which function answers
page/    the page itself: HTML, style sheet and script

The server needs no packages beyond the standard library, and imports no torch.
"""
