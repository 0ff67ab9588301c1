"""The page in the browser: the same tasks, events and permissions as REST, as HTML rendered here.

``routes`` holds the pages, ``live`` the stream a running task's page follows, ``form`` what people type in. The others
say how something looks: ``entry`` an event, ``changes`` a patch, ``usage`` and ``plot`` what was used, ``text`` words
and numbers, ``html`` puts them into ``templates``. ``static`` has the style, two small scripts of ours and htmx.
Nothing is built, and nothing is loaded from elsewhere.
"""
