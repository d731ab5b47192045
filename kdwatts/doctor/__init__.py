"""`python -m kdwatts.doctor`: are meter, speed and numbers right on this machine?"""
