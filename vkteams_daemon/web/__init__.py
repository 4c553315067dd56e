"""The web page: everyone finds what was said in their own chats, in a browser."""
