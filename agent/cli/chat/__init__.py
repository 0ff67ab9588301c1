"""``mimo`` without a command: a conversation about the files of a folder.

A conversation is a folder of its own: a store whose tasks are its turns (``turn``), a journal of what else was decided
(``journal``), and a history of the user's files outside the user's git (``files``). ``workplace`` is where commands
run: a sandbox that the folder is kept equal with, or the machine itself. ``before`` knows what the folder was before
each call. ``folders`` makes and lists conversations, ``record`` reads their turns. ``conversation`` puts them together
and knows of no terminal; ``screen`` is the terminal, ``lines`` what it prints, ``commands`` what begins with a slash.
"""
