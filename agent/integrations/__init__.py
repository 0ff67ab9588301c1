"""What goes out to other people's services. Nothing here decides anything: the store's rows say what is to be sent."""
