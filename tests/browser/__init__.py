"""The browser client and the dashboard in real Chromium, against real servers and a real nginx."""
