i=0; while [ $i -lt ${1:-60000} ]; do i=$((i+1)); done; cat
