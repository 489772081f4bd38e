"""The script that Streamlit runs, alone in its folder: Streamlit lets it shadow other modules."""
