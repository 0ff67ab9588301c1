"""Whether a tool call may be made: now, never, or only if the user says so.

``command`` takes a shell line apart, ``kinds`` says what each simple command in it can do, ``policy`` decides by the
user's mode and by what was granted before. Pure: nothing here runs or reads anything.
"""
