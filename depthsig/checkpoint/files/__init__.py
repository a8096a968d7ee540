"""The files of a checkpoint: untrusted input.

Two functions do all of it. :func:`depthsig.checkpoint.files.listing.list_files` says, before anything is
loaded, which files are read, and refuses what would run code, be unpickled, or lie outside the folder.
:func:`depthsig.checkpoint.files.agreement.check_agreement` holds, after loading, what the files say and hold
against what runs, and tells or refuses every difference.
"""
