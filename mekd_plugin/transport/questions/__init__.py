"""What is asked of a run, one question a file.

Read ``responses.py`` first (are student and teacher the same distribution), then ``inversion.py`` (is the generator the
teacher's inverse), ``coverage.py`` and ``memorisation.py`` (what it reaches, what it copies), ``membership.py`` (what
was sent says about whose images stayed at home), ``image_space.py`` and ``gradient_direction.py`` (what the image-space
loss does), ``latent_cells.py``, ``transport_cells.py`` and ``cell_picture.py`` (the decision cells), ``domains.py`` and
``unmatched.py`` (edge and cloud). ``permutation.py`` asks of any two sets whether they come from one distribution.
"""
