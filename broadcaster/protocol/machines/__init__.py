"""The machines: one class per role in one conversation, four verbs each.

`start`, `receive`, `expire` and `deadline`: they return what to send and never send; time is an argument, and so are buffers
and ids. A retry of something already held is dropped; what is not allowed in a state raises RemoteProtocolError.
"""
