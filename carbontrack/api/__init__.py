"""The public interface and the assembly of trackers from concrete meters, grids and sinks."""
